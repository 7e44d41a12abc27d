"""Writes a sheet of drawn faces, the points shown on every second row.

python -m lmkd.data_builders.synthetic_faces.contact_sheet --output=docs/images/synthetic_faces.png
"""

import argparse
from pathlib import Path

import cv2
import numpy as np

from lmkd.data_builders.synthetic_faces.render import Face, draw_face


def contact_sheet(seed: int, columns: int, rows: int, size_px: int) -> np.ndarray:
    """Returns a sheet uint8 [rows size, columns size, 3]; rows 1, 3, ... show the points."""
    faces = [[draw_face(seed, r * columns + c, size_px) for c in range(columns)] for r in range(rows)]
    tiles = [[with_points(f) if r % 2 else f.image for f in row] for r, row in enumerate(faces)]
    return np.concatenate([np.concatenate(row, axis=1) for row in tiles])


def with_points(face: Face) -> np.ndarray:
    """Returns the picture with its points as small dots."""
    image = face.image.copy()
    for x, y in face.landmarks98_px:
        cv2.circle(image, (int(round(x * 16)), int(round(y * 16))), 13, (40, 255, 60), -1, cv2.LINE_AA, 4)
    return image


def main() -> None:
    """Reads the flags and writes the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--size_px", type=int, default=112)
    flags = parser.parse_args()
    sheet = contact_sheet(flags.seed, flags.columns, flags.rows, flags.size_px)
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    sheet = sheet // 8 * 8 + 4  # 32 levels a channel: half the file
    cv2.imwrite(str(flags.output), sheet[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
