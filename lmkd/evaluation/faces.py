"""Pictures of faces: which ones to show, and how true and predicted points are drawn over them."""

import base64
import html
import math
from typing import NamedTuple

import cv2
import numpy as np

from lmkd.core import geometry
from lmkd.evaluation.rows import FaceRows

RANKS = ("best", "median", "worst")
PREDICTED, TRUTH = ("#FFE100", "#2FA8FF")  # dot and ring, both edged dark: seen on any skin, with any colour vision


class FacePicture(NamedTuple):
    """A face to show.

    Attributes:
      image: u8 [S, S, 3], RGB crop.
      predicted_px, truth_px: [K, 2], in CROP pixels.
      key: the record's key.
      nme: fraction.
      rank: "best", "median" or "worst".
      visible: [K], 0 where the true point is not annotated and not drawn; all drawn when None.
    """

    image: np.ndarray
    predicted_px: np.ndarray
    truth_px: np.ndarray
    key: str
    nme: float
    rank: str
    visible: np.ndarray | None = None


def select_faces(rows: FaceRows, nme: np.ndarray, count: int = 6) -> list[tuple[int, str]]:
    """Returns (row, rank) of the `count` best, the `count` median and the `count` worst faces, each face once at most.

    Best faces come best first, worst faces worst first; faces without a score (NaN) are left out. With fewer than
    3 x `count` faces each rank gets a third.
    """
    order = np.argsort(nme, kind="stable")
    order = order[~np.isnan(nme[order]) & (rows.evaluated[order] > 0)]
    count = min(count, math.ceil(len(order) / 3))
    best, worst = (order[:count], order[len(order) - min(count, max(len(order) - count, 0)) :][::-1])
    between = order[len(best) : len(order) - len(worst)]
    start = max(0, len(between) - count) // 2
    picked = {"best": best, "median": between[start : start + count], "worst": worst}
    return [(int(n), rank) for rank in RANKS for n in picked[rank]]


def face_picture(rows: FaceRows, n: int, image: np.ndarray, crop_to_image: np.ndarray, nme: float, rank: str) -> FacePicture:
    """Returns the picture of row `n` from its crop u8 [S, S, 3] and the affine [2, 3] that its batch carried."""
    to_crop = geometry.invert(np.asarray(crop_to_image, np.float64))
    return FacePicture(
        image=np.asarray(image),
        predicted_px=geometry.apply_affine(to_crop, rows.predicted_px[n]),
        truth_px=geometry.apply_affine(to_crop, rows.truth_px[n]),
        key=rows.keys[n],
        nme=float(nme),
        rank=rank,
        visible=rows.visible[n],
    )


def face_svg(face: FacePicture, *, quality: int = 88) -> str:
    """Returns a face as inline SVG: the crop as JPEG, true points as rings, predicted ones as dots, misses as lines.

    The points are vectors over the pixels, so they stay sharp at any size, and a hit reads as a dot in its ring.
    """
    side = face.image.shape[0]
    ok, jpeg = cv2.imencode(".jpg", cv2.cvtColor(face.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"the picture of {face.key!r} cannot be encoded: {face.image.shape} {face.image.dtype}")
    # The centre of the top-left pixel is (0, 0), so the image covers -0.5 .. side - 0.5.
    href = data_uri(jpeg.tobytes(), "image/jpeg")
    parts = [f'<image x="-.5" y="-.5" width="{side}" height="{face.image.shape[1]}" href="{href}"/>']
    drawn = np.isfinite(face.truth_px).all(axis=-1)
    if face.visible is not None:
        drawn &= np.asarray(face.visible) > 0
    unit = side / 100  # one hundredth of the picture
    for colour, width in (("#000000", 0.9), ("#FFFFFF", 0.45)):
        moves = "".join(
            f"M{t[0]:.1f} {t[1]:.1f}L{p[0]:.1f} {p[1]:.1f}"
            for t, p in zip(face.truth_px[drawn], face.predicted_px[drawn], strict=True)
        )
        parts.append(f'<path d="{moves}" stroke="{colour}" stroke-width="{width * unit:.2f}" fill="none"/>')
    parts += _rings(face.truth_px[drawn], 1.3 * unit, unit)
    parts += _dots(face.predicted_px, 0.75 * unit, unit)
    title = html.escape(f"{face.rank}: {face.key}, NME {100 * face.nme:.2f} %, true and predicted points")
    box = f"-.5 -.5 {face.image.shape[1]} {side}"
    return f'<svg viewBox="{box}" role="img" aria-label="{title}"><title>{title}</title>{"".join(parts)}</svg>'


def face_legend_svg() -> str:
    """Returns the legend of `face_svg` as inline SVG: what a ring, a dot and a line mean."""
    here, there = np.array([[4.0, 5.0]]), np.array([[9.0, 5.0]])
    line = '<path d="M4 5L9 5" stroke="#000" stroke-width=".9"/><path d="M4 5L9 5" stroke="#fff" stroke-width=".45"/>'
    marks = "".join([line, *_rings(here, 2.2, 2.0), *_dots(there, 1.3, 2.0)])
    return f'<svg class="legend" viewBox="0 0 13 10" aria-hidden="true">{marks}</svg>'


def data_uri(content: bytes | str, kind: str) -> str:
    """Returns content as a data: address, so that a page needs no other file."""
    raw = content.encode() if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def _rings(points_px: np.ndarray, radius: float, unit: float) -> list[str]:
    shapes = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.2f}"/>' for x, y in points_px)
    return [
        f'<g fill="none" stroke="{colour}" stroke-width="{width * unit:.2f}">{shapes}</g>'
        for colour, width in (("#00111F", 0.85), (TRUTH, 0.5))
    ]


def _dots(points_px: np.ndarray, radius: float, unit: float) -> list[str]:
    shapes = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.2f}"/>' for x, y in points_px)
    return [f'<g fill="{PREDICTED}" stroke="#1F1B00" stroke-width="{0.18 * unit:.2f}">{shapes}</g>']
