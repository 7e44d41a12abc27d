"""The card beside each exported file: `model.json`, which says what the file is and holds what a user of it must know.

    write(folder, card)
    card = read(Path("out/onnx/model.onnx"))        # a file or its folder; refuses a file that is not the card's

It is complete without this package: scheme, side of the input, how to crop, scores, training data, licences, versions.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from lmkd.core.errors import UserError, report_together

NAME = "model.json"
CARD_FORMAT = 1  # raise it when a key changes its meaning
REQUIRED = ("card_format", "format", "file", "sha256", "scheme", "image_px", "crop", "flip_test", "config", "checkpoint")
LICENCE_NOTE = (
    "The code that trained this model is under Apache-2.0. Its weights were made from the data under training_data, whose own "
    "licences bind whoever uses them; many face data sets allow research only."
)


def usage(*, image_px: int, crop: str, crop_scale: float, grid: int, points: int, flip_test: bool) -> dict[str, Any]:
    """Returns the part of a card that says how the file is used: inputs, outputs, crop."""
    return {
        "image_px": image_px,
        "crop": {
            "protocol": crop,
            "scale": crop_scale,
            "meaning": (
                f"a square about the centre of the face's box, {crop_scale:g} times the box's longer side, resampled to "
                f"{image_px} x {image_px}; pixel centres are whole numbers, (0, 0) the top-left pixel's. 'landmarks': the "
                "tight box of the true points; 'rectangle': the data set's own box. Bring a detector's box to that one."
            ),
        },
        "flip_test": flip_test,
        "inputs": {"crops": f"uint8 [b, {image_px}, {image_px}, 3], RGB"},
        "outputs": {
            "heatmaps": f"float32 [b, {grid}, {grid}, {points}]",
            "landmarks_px": f"float32 [b, {points}, 2], (x, y) in crop pixels",
            "confidence": f"float32 [b, {points}], the value of each heatmap's peak",
        },
    }


def write(folder: Path, card: dict[str, Any]) -> None:
    """Writes a card into an export's folder, format and checksum of its file added."""
    file = folder / card["file"]
    whole = {"card_format": CARD_FORMAT, **card, "bytes": size_bytes(file), "sha256": checksum(file)}
    whole["config"] = whole.pop("config")  # the longest part comes last
    (folder / NAME).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def find(path: Path) -> Path | None:
    """Returns the card that belongs to a file or an export's folder; None where there is none."""
    found = (path if path.is_dir() else path.parent) / NAME
    return found if found.is_file() else None


def read(path: Path) -> tuple[dict[str, Any], Path]:
    """Reads the card of an exported file (or of its folder) and checks that it is that file's.

    Returns:
      The card, and the exported file's path.

    Raises:
      UserError: no card, one that cannot be read or is not complete, or another file than the one that it describes.
    """
    found = find(path)
    if found is None:
        raise UserError(
            f"{path} has no {NAME} beside it, which says what it is. Keep the two together, as `python -m lmkd.export` wrote "
            "them."
        )
    try:
        card = json.loads(found.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{found} cannot be read: {error}") from error
    report_together([f"no key {key!r}" for key in REQUIRED if key not in card], f"{found} is no card of this package")
    if card["card_format"] != CARD_FORMAT:
        raise UserError(f"{found} is of card format {card['card_format']}; this version reads {CARD_FORMAT}")
    file = found.parent / card["file"]
    if path.is_file() and path.name not in (NAME, card["file"]):
        raise UserError(f"{found} describes {card['file']}, not {path.name}")
    if not file.exists():
        raise UserError(f"{found} describes {card['file']}, which is not there")
    if checksum(file) != card["sha256"]:
        raise UserError(f"{file} is not the file that {NAME} beside it describes: its checksum differs. Export it again.")
    return card, file


def checksum(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files in the order of their names, the names included and cards left out."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    whole = hashlib.sha256()
    for inner in _files(path):
        whole.update(f"{inner.relative_to(path).as_posix()}\0{checksum(inner)}\n".encode())
    return whole.hexdigest()


def size_bytes(path: Path) -> int:
    """Bytes of a file, or of all of a folder's files but its card."""
    return path.stat().st_size if path.is_file() else sum(inner.stat().st_size for inner in _files(path))


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / NAME)
