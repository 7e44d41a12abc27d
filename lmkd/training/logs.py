"""What a run writes while it goes: `metrics.jsonl`, event files for TensorBoard, and the progress bar."""

import json
from pathlib import Path
from typing import Any

import tensorboardX
from tqdm import tqdm


class MetricLog:
    """Appends rows to `<folder>/metrics.jsonl` and to event files in `<folder>/events`.

    A run that goes on from `start_step` drops the rows that an interrupted run wrote beyond it, so that every step stands
    once. Of several processes one writes.
    """

    def __init__(self, folder: Path, *, start_step: int, writes: bool = True):
        self.path = folder / "metrics.jsonl"
        self._writes = writes
        if not writes:
            return
        kept = [row for row in read_metrics(self.path) if row["step"] <= start_step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        temporary.replace(self.path)
        self._file = self.path.open("a")
        self._events = tensorboardX.SummaryWriter(str(folder / "events"), purge_step=start_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Writes one row."""
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes both."""
        if not self._writes:
            return
        self._file.close()
        self._events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a `metrics.jsonl`; a last line cut short by a crash is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Progress:
    """A bar with loss, faces a second and time left; where there is no terminal, a line now and then; silent if not shown."""

    def __init__(self, *, stage: str, start_step: int, total_steps: int, batch_size: int, shown: bool = True):
        self._batch_size = batch_size
        self._bar = tqdm(
            total=total_steps, initial=start_step, desc=stage, unit="step", dynamic_ncols=True, mininterval=0.5,
            maxinterval=60, smoothing=0.05, disable=not shown,
        )  # fmt: skip
        if not shown:
            return
        self._bar.mininterval = 0.5 if self._bar.fp.isatty() else 20.0  # type: ignore[attr-defined]

    def update(self, steps: int = 1) -> None:
        """Moves the bar."""
        self._bar.update(steps)

    def show(self, loss: float, validation_nme: float | None) -> None:
        """Sets the figures beside the bar."""
        if self._bar.disable:
            return
        rate = self._bar.format_dict["rate"]
        shown = {"loss": f"{loss:.4g}"} | ({"faces/s": f"{rate * self._batch_size:.0f}"} if rate else {})
        if validation_nme is not None:
            shown["val NME"] = f"{validation_nme:.2f}%"
        self._bar.set_postfix(shown, refresh=False)

    def say(self, text: str) -> None:
        """Prints a line without tearing the bar."""
        if not self._bar.disable:
            tqdm.write(text)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        self._bar.close()
