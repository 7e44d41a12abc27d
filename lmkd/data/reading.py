"""Prepared records by index: `open_split("the300w:train", ...)` and several splits in a row.

A split is named as TFDS does: `NAME[/CONFIG]:SPLIT`, where SPLIT may be a slice ("train[:90%]").
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from lmkd.core import schemes
from lmkd.core.errors import UserError, report_together, unknown
from lmkd.data import preparation


class UnreadableRecord(UserError):
    """A record that cannot be used; the message names it, `key` is its key (its place, where that cannot be read)."""

    def __init__(self, message: str, key: str):
        super().__init__(message)
        self.key = key


class Record(NamedTuple):
    """One prepared face; shapes as under "Prepared record" in ARCHITECTURE.md. Where `labelled` is False, its points say where
    to crop and nothing else.
    """

    key: str
    image: bytes
    landmarks_px: np.ndarray
    visible: np.ndarray
    rectangle_px: np.ndarray
    subset: np.ndarray
    person: str
    labelled: bool = True


class Provenance(NamedTuple):
    """Where records come from and how many of the published ones there are, for the report."""

    name: str
    config_name: str
    split: str
    found: int
    published: int
    missing: str
    licence: str
    labelled: bool = True

    def text(self) -> str:
        """Says "the300w:train, 2012 of 3148 faces" (or how many, where all are there), and whether without labels."""
        count = f"{self.found} of {self.published}" if self.found != self.published else f"{self.found}"
        return f"{self.name}:{self.split}, {count} faces" + ("" if self.labelled else " without their labels")


@runtime_checkable
class Records(Protocol):
    """Random access to faces of one scheme."""

    scheme: schemes.Scheme
    flags: tuple[str, ...]
    provenance: tuple[Provenance, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class Split:
    """The records of one split of one prepared data set."""

    def __init__(self, source: Any, scheme: schemes.Scheme, flags: tuple[str, ...], provenance: Provenance):
        self._source = source
        self.scheme = scheme
        self.flags = flags
        self.provenance: tuple[Provenance, ...] = (provenance,)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """Reads a record. Raises UnreadableRecord where its bytes are damaged (ArrayRecord keeps checksums of them)."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        try:
            raw = self._source[index]
            return Record(
                key=_text(raw["key"]),
                image=raw["image"],
                landmarks_px=np.asarray(raw["landmarks_px"], np.float64),
                visible=np.asarray(raw["visible"], np.float32),
                rectangle_px=np.asarray(raw["rectangle_px"], np.float64),
                subset=np.asarray(raw["subset"], np.uint8),
                person=_text(raw["person"]),
            )
        except Exception as error:  # Riegeli's, protobuf's and TFDS's own, depending on where the damage is
            place = f"{self.provenance[0].name}:{self.provenance[0].split}[{index}]"
            raise UnreadableRecord(f"record {place} is damaged ({str(error)[:200]})", place) from error


class InScheme:
    """Records seen in a smaller scheme that theirs contains (a WFLW face as 300W's 68 points)."""

    def __init__(self, records: Records, target: str):
        self._records = records
        self._indices = list(records.scheme.subset_indices(target))
        self.scheme = schemes.get(target) if target != records.scheme.name else records.scheme
        self.flags = records.flags
        self.provenance = records.provenance

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[index]
        return record._replace(landmarks_px=record.landmarks_px[self._indices], visible=record.visible[self._indices])


class Unlabelled:
    """Records whose points only say where to crop: no term on the truth sees them, teachers may speak of all their points."""

    def __init__(self, records: Records):
        self._records = records
        self.scheme = records.scheme
        self.flags = records.flags
        self.provenance = tuple(p._replace(labelled=False) for p in records.provenance)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        return self._records[index]._replace(labelled=False)


class InARow:
    """Several records one after the other. Subset flags are kept only where all parts have the same."""

    def __init__(self, parts: Sequence[Records]):
        different = sorted({p.scheme.name for p in parts})
        if len(different) > 1:
            raise UserError(
                f"these splits have different landmark schemes ({', '.join(different)}): "
                "set config.scheme to one that all of them contain, such as '300w68'"
            )
        self._parts = list(parts)
        self._starts = np.cumsum([0] + [len(p) for p in parts])
        self.scheme = parts[0].scheme
        self.flags = parts[0].flags if all(p.flags == parts[0].flags for p in parts) else ()
        self.provenance = tuple(x for p in parts for x in p.provenance)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Record:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        record = self._parts[part][index - int(self._starts[part])]
        # Two data sets may use one file name; a key stays unique by its data set.
        name = self._parts[part].provenance[0].name
        key = f"{name}/{record.key}" if len(self._parts) > 1 else record.key
        return record._replace(key=key, subset=record.subset[: len(self.flags)])


def parse(reference: str) -> tuple[str, str | None, str]:
    """Splits "NAME[/CONFIG]:SPLIT" into (name, config or None, split)."""
    head, colon, split = reference.partition(":")
    name, _, config = head.partition("/")
    if not (name and colon and split):
        raise UserError(f"data split {reference!r}: write NAME[/CONFIG]:SPLIT, such as 'the300w:train'")
    return name, config or None, split


def open_split(reference: str, *, data_dir: str | None = None) -> Split:
    """Opens one prepared split.

    Raises:
      UserError: not prepared (the message has the command that prepares it), damaged files, or no such split.
    """
    name, config, split = parse(reference)
    builder = preparation.locate(name, config, data_dir)
    base = split.partition("[")[0]
    if base not in builder.info.splits:
        raise unknown("split", base, builder.info.splits, f"of prepared data set {builder.info.full_name}")
    _check_files(builder, base)
    source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    if len(source) == 0:
        raise UserError(f"data split {reference!r} holds no face")
    meta: Mapping[str, Any] = builder.info.metadata
    whole = base == split
    provenance = Provenance(
        name=name,
        config_name=builder.builder_config.name if builder.builder_config else "",
        split=split,
        found=len(source),
        published=int(meta["published"].get(base, len(source))) if whole else len(source),
        missing=str(meta["missing"]),
        licence=str(meta["licence"]),
    )
    return Split(source, schemes.from_json(meta["scheme"]), tuple(meta["subset_flags"]), provenance)


def _check_files(builder: tfds.core.DatasetBuilder, split: str) -> None:
    """Refuses files of a split that are missing, empty or cut short, before the first record is read."""
    info, problems = builder.info.splits[split], []
    for path, needed in zip(info.filepaths, info.shard_lengths, strict=True):
        try:
            reader = array_record_module.ArrayRecordReader(str(path))
            found = reader.num_records()
            reader.close()
        except RuntimeError as error:
            problems.append(f"{path}: {error}")
        else:
            if found != needed:
                problems.append(f"{path}: {found} records where there were {needed}")
    report_together(problems, preparation.damaged(builder.data_path))


def open_splits(
    references: Sequence[str], *, unlabelled: Sequence[str] = (), data_dir: str | None = None, scheme: str = ""
) -> Records:
    """Opens splits in a row, then those whose labels nobody shall learn; each seen in `scheme` where one is named."""
    opened: list[Records] = [open_split(r, data_dir=data_dir) for r in references]
    opened += [Unlabelled(open_split(r, data_dir=data_dir)) for r in unlabelled]
    if scheme:
        opened = [InScheme(records, scheme) for records in opened]
    return opened[0] if len(opened) == 1 else InARow(opened)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
