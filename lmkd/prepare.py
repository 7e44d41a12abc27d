"""Prepares a data set as ArrayRecord, strictly checked.

    python -m lmkd.prepare --dataset=synthetic_faces/tiny
    python -m lmkd.prepare --dataset=the300w --manual_dir=~/300w [--partial]
    python -m lmkd.prepare --dataset=own_faces --manual_dir=~/faces --own_test_fraction=0.2

Everything that is wrong is reported together, and nothing is written then (exit code 2). With --partial, what is
missing is accepted and named; the preparation then carries the folder's content hash in its config name.
"""

import sys
import time
from collections.abc import Sequence

from absl import flags

from lmkd.core.errors import UserError, folder
from lmkd.data import preparation

# Flags of this door alone, so that importing two doors never clashes.
FLAGS = flags.FlagValues()
flags.DEFINE_string("dataset", None, "NAME or NAME/CONFIG of the data set.", flag_values=FLAGS)
flags.DEFINE_string("manual_dir", None, "Folder with the data set's files, as published.", flag_values=FLAGS)
flags.DEFINE_string("data_dir", None, "Where prepared data sets live; TFDS' own default if left out.", flag_values=FLAGS)
flags.DEFINE_bool("partial", False, "Accept an incomplete folder; what is missing is named.", flag_values=FLAGS)
flags.DEFINE_bool("progress", True, "Show progress bars, on a terminal.", flag_values=FLAGS)
flags.DEFINE_string("scheme", None, "own_faces: scheme file; scheme.json in manual_dir if left out.", flag_values=FLAGS)
flags.DEFINE_enum(
    "own_annotations",
    "auto",
    ["auto", "pts", "csv", "coco", "dlib"],
    "own_faces: format of the annotations.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "own_test_fraction", 0.1, "own_faces: share of test images, where no list or folder says it.", flag_values=FLAGS
)
flags.DEFINE_integer("own_seed", 0, "own_faces: seed of that split.", flag_values=FLAGS)
flags.DEFINE_bool("help", False, "Show this help.", flag_values=FLAGS)

OWN_OPTIONS = {"scheme": "scheme", "own_annotations": "annotations", "own_test_fraction": "test_fraction",
               "own_seed": "seed"}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Runs the door; returns the exit code: 0, or 2 after a message for the user."""
    FLAGS.unparse_flags()
    for name in FLAGS:
        FLAGS[name].unparse()
    try:
        extra = FLAGS(list(argv))[1:]
        if FLAGS.help or len(argv) == 1:
            print(f"{__doc__}\nData sets: {', '.join(preparation.names())}\n\n{FLAGS.get_help()}")
            return 0
        if extra:
            raise UserError(f"unexpected argument {extra[0]!r}; options are written --name=value")
        _run()
    except (UserError, flags.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def summary(prepared: preparation.Prepared, seconds: float) -> str:
    """Returns the table of a preparation: split, faces, published faces, megabytes; then where it lies."""
    splits = preparation.locate(prepared.name, prepared.config_name, prepared.path.parents[2]).info.splits
    rows = [("split", "faces", "of", "MB")]
    for split, found in prepared.found.items():
        published = prepared.published.get(split)
        rows.append((split, f"{found}", f"{published}" if published else "-", f"{splits[split].num_bytes / 1e6:.1f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    table = ["  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3))]) for row in rows]
    state = "prepared already" if prepared.reused else f"prepared in {seconds:.1f} s"
    lines = [f"{prepared.name}/{prepared.config_name}: {state}", f"  {prepared.path}", "", *table]
    if prepared.missing:
        lines += ["", "missing:", *(f"  - {item}" for item in prepared.missing.split("; "))]
    return "\n".join(lines)


def _run() -> None:
    if not FLAGS.dataset:
        raise UserError(f"--dataset is needed. Data sets: {', '.join(preparation.names())}.")
    name, _, config_name = FLAGS.dataset.partition("/")
    preparation.builder_class(name)  # a wrong name first
    given = [flag for flag in OWN_OPTIONS if FLAGS[flag].present]
    if given and name != "own_faces":
        raise UserError(f"--{given[0]} is an option of own_faces, not of {name}")
    for flag in ("data_dir", "manual_dir"):
        folder(f"--{flag}", FLAGS[flag].value or "")
    start = time.monotonic()
    prepared = preparation.prepare(
        name,
        data_dir=FLAGS.data_dir,
        manual_dir=FLAGS.manual_dir,
        partial=FLAGS.partial,
        config_name=config_name or None,
        options={option: FLAGS[flag].value for flag, option in OWN_OPTIONS.items()} if name == "own_faces" else None,
        progress=FLAGS.progress,
    )
    print(summary(prepared, time.monotonic() - start))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
