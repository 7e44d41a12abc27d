"""One trained network in every runtime that is installed: milliseconds a call, on one core and on two, for 1 and 8 crops.

The config's student is drawn, exported to every format whose packages are here, and timed beside `jax.jit` of the checkpoint
and, where torch is installed, beside a plain PyTorch HRNet of the same shape (`torch_hrnet`), eager and compiled. Every row
takes uint8 crops in host memory and gives points and heatmaps there. Each number of cores has a process of its own, pinned to
them before any runtime starts; in it all rows take turns (`rounds`).

Weights are freshly drawn and crops are noise: no time depends on them. Nothing has to be trained or prepared.
"""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from lmkd import build, kept_configs
from lmkd import config as configs
from lmkd.benchmarks import torch_hrnet
from lmkd.benchmarks.drawn import declared_scheme
from lmkd.benchmarks.processes import in_own_process, pinned
from lmkd.benchmarks.rounds import Part, Topic, quartiles, table, timed
from lmkd.core.errors import UserError
from lmkd.exporters import card, formats, graph, orbax
from lmkd.models import initialise
from lmkd.opened import of_checkpoint

CORES = (1, 2)
BATCHES = (1, 8)


def run(config: ConfigDict, *, stage: str, rounds: int, progress: Callable[[str], None] = lambda text: None) -> Topic:
    """Measures one stage's network.

    Args:
      config: an experiment.
      stage: its name; "" is the last one of config.stages.
      rounds: of all rows, after the first two calls.
      progress: told what goes on.

    Raises:
      UserError: the config cannot run, there is no such stage, or a measuring process fails.
    """
    configs.check(config)
    name = stage or config.stages[-1]
    if name not in config.stage:
        raise UserError(f"--stage: no stage {name!r}; config.stage has {', '.join(sorted(config.stage.keys()))}")
    with tempfile.TemporaryDirectory() as folder:
        missing = exported(config, name, Path(folder), progress)
        cores = [n for n in CORES if n <= formats.cores()]
        found = {n: _measured(Path(folder), n, rounds, progress) for n in cores}
        sizes = {p.name: card.size_bytes(p) for p in Path(folder).iterdir()}
    for note in found[cores[0]]["missing"]:
        missing.append(note)
    stage_config = config.stage[name]
    side = build.image_px(stage_config, config)
    conditions = {"stage": name, "image_px": side, "batches": BATCHES, "left out": "; ".join(missing)}
    figures = {"rows": {str(n): found[n]["rows"] for n in cores}, "bytes": sizes, "missing": missing}
    return Topic("one network in every runtime", conditions, _table(found, sizes), figures)


def exported(config: ConfigDict, stage: str, folder: Path, progress: Callable[[str], None]) -> list[str]:
    """Draws a stage's network and writes it in every format that can be; returns what could not, in words."""
    config = config.copy_and_resolve_references()
    config.runtime.dtype = "float32"
    scheme, missing = declared_scheme(config), []
    net = build.model(config.stage[stage], config, scheme)
    side = build.image_px(config.stage[stage], config)
    variables = initialise.initial_variables(net, side, seed=0)
    whole = graph.of(net, variables, image_px=side, flip=None)
    crops = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)
    for name, form in formats.every().items():
        progress(f"exporting {name}")
        (folder / name).mkdir()
        module = formats.module(form)
        if module is orbax:
            plain = json.loads(kept_configs.to_json(config)), json.loads(scheme.to_json())
            meta = {"format": build.META_FORMAT, "stage": stage, "config": plain[0], "scheme": plain[1], "training_data": []}
            orbax.write_checkpoint(folder / name, variables, meta, form.variant)
            continue
        try:
            module.write(whole, folder / name / module.FILE, form.variant, crops)
        except UserError as error:
            missing.append(f"{name}: {error}")
            (folder / name).rmdir()
    return missing


def measure(folder: Path, cores: int, rounds: int) -> dict[str, Any]:
    """Times every export in a folder, in this process: what `run` starts a process for."""
    loaded, found, missing = build.load(folder / "orbax"), [], []
    callables: dict[str, Callable[[np.ndarray], Any]] = {"jax.jit": of_checkpoint(loaded, flip_test=False).run}
    for name, form in formats.every().items():
        module = formats.module(form)
        if module is not orbax and (folder / name).is_dir():
            try:
                callables[name] = module.runner(folder / name / module.FILE, cores)
            except UserError as error:
                missing.append(f"{name}: {error}")
    of_torch, note = _torch(loaded, cores)
    callables |= of_torch
    missing += [note] if note else []
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        crops = rng.integers(0, 256, (batch, loaded.image_px, loaded.image_px, 3), np.uint8)
        parts = [Part(name, f"{batch} crops", functools.partial(call, crops)) for name, call in callables.items()]
        found += [(batch, timing) for timing in timed(parts, rounds=rounds)]
    rows = [
        {"name": t.name, "batch": b, "median_ms": t.median_ms, "quartiles_ms": quartiles(t.rounds_ms), "rounds_ms": t.rounds_ms}
        for b, t in found
    ]
    return {"rows": rows, "missing": missing}


def _torch(loaded: build.Loaded, cores: int) -> tuple[dict[str, Callable[[np.ndarray], Any]], str]:
    """PyTorch's rows by name, or why there are none."""
    try:
        eager = torch_hrnet.like(loaded.model)
    except torch_hrnet.Unlike as error:
        return {}, str(error)
    import torch

    torch.set_num_threads(cores)

    def calling(network: Any) -> Callable[[np.ndarray], Any]:
        def call(crops: np.ndarray) -> Any:
            with torch.inference_mode():
                return [x.numpy() for x in network(torch.from_numpy(crops))]

        return call

    return {"PyTorch eager": calling(eager), "PyTorch compiled": calling(torch.compile(eager, dynamic=False))}, ""


def _measured(folder: Path, cores: int, rounds: int, progress: Callable[[str], None]) -> dict[str, Any]:
    progress(f"{rounds} rounds on {cores} core(s)")
    with pinned(cores):
        return in_own_process(child, str(folder), str(cores), str(rounds), what=f"measuring on {cores} core(s)")


def child(folder: str, cores: str, rounds: str) -> dict[str, Any]:
    """What the measuring process does."""
    return measure(Path(folder), int(cores), int(rounds))


def _table(found: dict[int, dict[str, Any]], sizes: dict[str, int]) -> str:
    by_case = {(r["name"], n, r["batch"]): r for n, one in found.items() for r in one["rows"]}
    cases = [(n, batch) for n in found for batch in BATCHES]
    header = ("runtime", "MB", *(f"{n} core{'s' * (n > 1)}, {b} crop{'s' * (b > 1)}: ms" for n, b in cases))
    rows = []
    for name in dict.fromkeys(name for name, _, _ in by_case):
        size = sizes.get("orbax" if name == "jax.jit" else name)
        cells = [by_case.get((name, n, b)) for n, b in cases]
        rows.append((name, f"{size / 1e6:.2f}" if size else "", *(f"{c['median_ms']:.2f}" if c else "" for c in cells)))
    return table(header, rows)
