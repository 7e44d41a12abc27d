"""Exports a trained landmarker to files that run without this package, each checked in its own runtime before it is kept.

    python -m lmkd.export --model=PATH [--which=best|latest] --format=stablehlo [--format=onnx ...] --output=DIR
                          [--flip_test] [--decoder=mean] [--data=the300w:train] [--data_dir=DIR]

Writes DIR/<format>/ with the file and `model.json`. Crops for calibration and comparison come from --data, a prepared split, or
are synthetic faces. `python -m lmkd.evaluate --model=DIR/<format>` scores what was written. docs/export.md has the formats.
"""

import sys
from pathlib import Path

from absl import flags

from lmkd import cli

_MODEL = flags.DEFINE_string("model", "", "A workdir, a stage's folder or one step's folder.")
_WHICH = flags.DEFINE_string("which", "best", "best or latest checkpoint.")
_FORMAT = flags.DEFINE_multi_string("format", [], "Export format; may be given several times.")
_OUTPUT = flags.DEFINE_string("output", "", "Folder for the exports; each format has one of its own in it.")
_FLIP_TEST = flags.DEFINE_bool("flip_test", False, "The file averages each crop with its mirror: more exact, twice the time.")
_DECODER = flags.DEFINE_string("decoder", "", "How points are read off heatmaps; the model's config decides by default.")
_DATA = flags.DEFINE_string("data", "", "Split NAME[/CONFIG]:SPLIT to calibrate and compare with; drawn faces by default.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where prepared data sets lie; TFDS's own folder by default.")


def main() -> None:
    """The door's one call."""
    from lmkd import build, exporting
    from lmkd.core.errors import UserError, folder
    from lmkd.exporters import formats

    cli.quiet()
    known = formats.every()
    problems = [
        "which model? --model=runs/quickstart, for one" if not _MODEL.value else "",
        "" if _FORMAT.value else f"which format? --format=NAME, of {', '.join(known)}",
        "" if _OUTPUT.value else "where to? --output=DIR",
    ]
    if any(problems):
        raise UserError("\n".join(filter(None, problems)))
    for flag in (_OUTPUT, _DATA_DIR):
        folder(f"--{flag.name}", flag.value)
    names = list(dict.fromkeys(_FORMAT.value))
    for name in names:
        formats.find(name)
    if _DECODER.value:
        build.check_decoder(_DECODER.value)
    loaded = build.load(_MODEL.value, _WHICH.value)
    loaded = loaded.read_by(_DECODER.value) if _DECODER.value else loaded
    loaded.config.data.data_dir = _DATA_DIR.value or loaded.config.data.data_dir
    build.prepare_device(loaded.config)
    crops = exporting.split_crops(loaded, _DATA.value) if _DATA.value else exporting.drawn_crops(loaded)
    print(f"model: {loaded.folder} ({loaded.label}), compared on {len(crops.check)} crops of {crops.source}", file=sys.stderr)
    done = exporting.export(
        loaded,
        names,
        Path(_OUTPUT.value),
        crops=crops,
        flip_test=_FLIP_TEST.value,
        progress=lambda line: print(line, file=sys.stderr),
    )
    print(exporting.table(done))
    print(f"\nwritten: {Path(_OUTPUT.value).absolute()}")


def console() -> None:
    """Entry point."""
    cli.run(main)


if __name__ == "__main__":
    console()
