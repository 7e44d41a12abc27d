"""Models that come with the package, each an Orbax export with its card, named in the place of a path: `--model=faces68-1m`.

folder = resolve("faces68-1m")      # the folder of a model of the package
folder = resolve("runs/faces68")    # whatever lies on disk goes first
"""

from pathlib import Path

from lmkd.core.errors import UserError, nearest

DEFAULT = "faces68-1m"
"""Where no model is named: small, and nearly as exact as the largest."""

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Returns the names of the package's models."""
    return sorted(card.parent.name for card in _FOLDER.glob("*/model.json"))


def resolve(path: str | Path) -> Path:
    """Returns where a model lies.

    Args:
      path: a file or folder, or a pretrained model's name where no such file or folder exists.

    Raises:
      UserError: neither.
    """
    path = Path(path)
    if path.exists():
        return path
    if str(path) in names():
        return _FOLDER / path
    raise UserError(
        f"model {str(path)!r}: no such file or folder, and no pretrained model.{nearest(str(path), names())} Give a workdir, a "
        f"stage's folder, one step's folder, an exported file, or a pretrained model: {', '.join(names())}"
    )
