"""The card beside each exported file: `model.json`, which says what the file is and holds what a user of it must know.

    write(folder, card)
    card = read(Path("out/onnx/model.onnx"))        # a file or its folder; refuses a file that is not the card's

It is complete without this package: scheme, side of the input, how to crop, scores, training data, licences, versions.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from lmkd.core.errors import UserError, report_together

NAME = "model.json"
CARD_FORMAT = 1  # raise it when a key changes its meaning
REQUIRED = ("card_format", "format", "file", "sha256", "scheme", "image_px", "crop", "flip_test", "config", "checkpoint")
LARGEST_PX, LARGEST_SCALE = 4096, 100  # what a card may ask for: a crop's side in pixels, and in sides of a face's box
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
    (folder / NAME).write_text(_text(whole), encoding="utf-8")


def _text(card: dict[str, Any]) -> str:
    """JSON for people: a key a line at the top, and what stands in lists and deeper on one line."""
    lines = (f" {json.dumps(key)}: {_value(value)}" for key, value in card.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _value(value: Any) -> str:
    if not isinstance(value, dict) or not value:
        return json.dumps(value)
    return "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(inner)}" for key, inner in value.items()) + "\n }"


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
    card = _checked(found)
    file = found.parent / card["file"]
    if path.is_file() and path.name not in (NAME, card["file"]):
        raise UserError(f"{found} describes {card['file']}, not {path.name}")
    if not file.exists():
        raise UserError(f"{found} describes {card['file']}, which is not there")
    if checksum(file) != card["sha256"]:
        raise UserError(f"{file} is not the file that {NAME} beside it describes: its checksum differs. Export it again.")
    return card, file


def _checked(found: Path) -> dict[str, Any]:
    """Reads a card, which may be a stranger's, and checks every part that is used."""
    try:
        card = json.loads(found.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{found} cannot be read: {error}") from error
    if not isinstance(card, dict):
        raise UserError(f"{found} is no card of this package: no JSON object")
    report_together([f"no key {key!r}" for key in REQUIRED if key not in card], f"{found} is no card of this package")
    if card["card_format"] != CARD_FORMAT:
        raise UserError(f"{found} is of card format {card['card_format']}; this version reads {CARD_FORMAT}")
    report_together(list(_problems(card)), f"{found} is no card of this package")
    return card


def _problems(card: dict[str, Any]) -> Iterator[str]:
    for key in ("crop", "scheme", "config", "checkpoint"):
        if not isinstance(card[key], dict):
            yield f"{key}: no JSON object"
    for key in ("format", "file", "sha256"):
        if not isinstance(card[key], str):
            yield f"{key}: no text"
    name = str(card["file"])
    plain = (
        name not in ("", "..")
        and len(name.encode("utf-8", "replace")) < 256
        and name == PurePosixPath(name).name == PureWindowsPath(name).name
        and "\0" not in name
    )
    if name != "." and not plain:
        yield f"file: {name!r} is not the name of a file beside the card"
    side, scale = card["image_px"], card["crop"].get("scale") if isinstance(card["crop"], dict) else None
    if not (type(side) is int and 1 <= side <= LARGEST_PX):
        yield f"image_px: {side!r} is no whole number within 1..{LARGEST_PX}"
    if not (isinstance(scale, int | float) and 0 < scale < LARGEST_SCALE):
        yield f"crop.scale: {scale!r} is no number between 0 and {LARGEST_SCALE}"


def checksum(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files in the order of their names, the names included and cards left out."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for inner in _files(path):
        whole.update(f"{inner.relative_to(path).as_posix()}\0{checksum(inner)}\n".encode())
    return whole.hexdigest()


def size_bytes(path: Path) -> int:
    """Bytes of a file, or of all of a folder's files but its card."""
    return path.stat().st_size if path.is_file() else sum(inner.stat().st_size for inner in _files(path))


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / NAME)
