"""A student's first weights, cut out of a trained wider HRNet.

    pruned = prune(teacher_variables, student_variables, source=HRNet(width=32), student=HRNet(width=16))
    variables = pruned.variables  # to train on: a pruned network is a start, not an end

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", 2017, arXiv 1708.06519, section 3: a
channel's importance is the absolute value of its batch norm's scale. Deviations: the source was not trained with an L1
penalty on its scales (equation 1); the number of channels kept is the student's, layer by layer, not one threshold over the
network; and channels that are added to each other are kept or dropped together, by the sum of their importances.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from lmkd.core.errors import report_together
from lmkd.models.blocks import EXPANSION
from lmkd.models.hrnet import HRNet

Path = tuple[str, ...]


class Pruned(NamedTuple):
    """What `prune` returns.

    Attributes:
      variables: the student's {"params", "batch_stats"}, float32 NumPy arrays.
      kept_as_drawn: the backbone's layers that the source lacks and that keep the student's first values,
        "backbone/stage4/module0/fuse1_0_step0". The head keeps its own always and is not listed.
    """

    variables: dict[str, Any]
    kept_as_drawn: tuple[str, ...]


class _Layer(NamedTuple):
    """A convolution with its batch norm: its path in the backbone, and the streams that it reads and writes.

    A stream is a set of maps whose channel c is one and the same everywhere, because the maps are added: a branch through
    all stages, or stage 1's output. A convolution inside a block or a chain writes a stream of its own. `width` is the number
    of channels written.
    """

    path: Path
    reads: str
    writes: str
    width: int


class _Plan(NamedTuple):
    """A network's layers by path, and the pairs of streams that it joins (a shortcut or transition left out)."""

    layers: dict[Path, _Layer]
    joined: tuple[tuple[str, str], ...]


def prune(source_variables: dict[str, Any], student_variables: dict[str, Any], *, source: HRNet, student: HRNet) -> Pruned:
    """Slices a trained HRNet backbone down to a narrower one; the head keeps its first values.

    A stream that many layers write to (a branch through all stages, stage 1's output) keeps the same channels in all of them:
    those with the largest sum of |scale| over the source's batch norms that write to it, also over layers that the
    student does not take. Inner channels go by their own batch norm. Kept channels stay in order; of equals the first
    is kept. A student with fewer modules or blocks takes the first ones; layers that the source lacks stay as drawn.

    Args:
      source_variables: a `Landmarker`'s {"params": {"backbone", "head"}, "batch_stats"}, trained.
      student_variables: as above, the student's first values.
      source: the backbone that `source_variables` belong to.
      student: the student's backbone: nowhere wider than the source, of the same kind of block.

    Returns:
      `Pruned`.

    Raises:
      UserError: the student does not fit into the source, or variables do not belong to their network.
    """
    wide, narrow = _plan(source), _plan(student)
    report_together(_misfits(source, student, wide, narrow), "the student cannot be pruned from the source")
    strangers = [*_strangers(source_variables, wide, "source"), *_strangers(student_variables, narrow, "student")]
    report_together(strangers, "pruning needs the variables of the networks it is given")
    importance = _importance(wide, source_variables["params"]["backbone"])
    widths = {layer.writes: layer.width for layer in narrow.layers.values()}
    kept = {stream: _strongest(importance[stream], n) for stream, n in widths.items() if stream in importance}
    kept["image"] = np.arange(3)

    def first_value(entries, drawn):
        names = tuple(entry.key for entry in entries)
        path = names[2:-2]  # between the collection and "backbone", and for instance "conv" and "kernel"
        if names[1] != "backbone" or path not in wide.layers:
            return np.array(drawn, np.float32)
        layer = narrow.layers[path]
        value = np.asarray(_at(source_variables, names), np.float32)
        return _sliced(value, names, kept[layer.reads], kept[layer.writes])

    variables = jax.tree_util.tree_map_with_path(first_value, student_variables)
    missing = [path for path in narrow.layers if path not in wide.layers]
    return Pruned(variables, tuple("/".join(("backbone", *path)) for path in missing))


def _sliced(value: np.ndarray, names: Path, reads: np.ndarray, writes: np.ndarray) -> np.ndarray:
    if names[-2] == "depthwise":  # [3, 3, 1, c] gives every channel back as itself
        return value[..., reads]
    return value[..., reads, :][..., writes] if names[-1] == "kernel" else value[writes]


def _importance(plan: _Plan, params: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the sum of |scale| for each channel of each stream, in float64; joined streams share theirs."""
    whole: dict[str, str] = {}
    for one, other in plan.joined:  # in the order of the computation: stage 1's stream may itself be the stem's
        whole[other] = whole.get(one, one)
    sums: dict[str, Any] = {}
    for layer in plan.layers.values():
        stream = whole.get(layer.writes, layer.writes)
        scale = np.abs(np.asarray(_at(params, (*layer.path, "bn", "scale")), np.float64))
        sums[stream] = sums.get(stream, 0) + scale
    return {layer.writes: sums[whole.get(layer.writes, layer.writes)] for layer in plan.layers.values()}


def _strongest(importance: np.ndarray, number: int) -> np.ndarray:
    return np.sort(np.argsort(-importance, kind="stable")[:number])


def _misfits(source: HRNet, student: HRNet, wide: _Plan, narrow: _Plan) -> list[str]:
    problems = []
    for option in ("width", "stage1_width", "stem_width"):
        largest, asked = getattr(source, option), getattr(student, option)
        if asked > largest:
            problems.append(f"{option}: the student's {asked} is wider than the source's {largest}; take at most {largest}")
    if source.block != student.block:
        problems.append(f"block: the student's {student.block!r} is not the source's {source.block!r}")
    for one, other in narrow.joined:
        if (one, other) not in wide.joined:
            options = {"stem": "stem_width or stage1_width", "stage1": "stage1_width or width"}[one]
            problems.append(
                f"{options}: they make {one} and {other} of the student equally wide, so that it adds their channels up "
                "without a convolution between, where the source has one; change either"
            )
    return problems


def _strangers(variables: dict[str, Any], plan: _Plan, whose: str) -> Iterator[str]:
    """Yields what in `variables` is missing, has another number of channels, or belongs to no layer of the plan."""
    widths = {"image": 3} | {layer.writes: layer.width for layer in plan.layers.values()}
    for collection in ("params", "batch_stats"):
        lacking = dict(plan.layers)
        tree = variables.get(collection, {}).get("backbone", {})
        for entries, leaf in jax.tree_util.tree_leaves_with_path(tree):
            names = tuple(entry.key for entry in entries)
            where = f"{whose} {collection}/backbone/{'/'.join(names)}"
            layer = plan.layers.get(names[:-2])
            if layer is None:
                yield f"{where}: no such layer in the network"
                continue
            lacking.pop(layer.path, None)
            channels = (widths[layer.reads], layer.width) if names[-1] == "kernel" else (layer.width,)
            channels = (1, channels[0]) if names[-2] == "depthwise" else channels
            if np.shape(leaf)[-len(channels) :] != channels:
                yield f"{where}: channels {channels} in the network, shape {np.shape(leaf)} in the variables"
        for path in lacking:
            yield f"{whose} {collection}/backbone/{'/'.join(path)}: missing in the variables"


def _at(tree: Any, names: Path) -> Any:
    for name in names:
        tree = tree[name]
    return tree


def _plan(net: HRNet) -> _Plan:
    stem, stage1 = net.stem_width, EXPANSION * net.stage1_width
    joins = ((("stem", "stage1"), stem == stage1), (("stage1", "branch0"), stage1 == net.width))
    layers = {layer.path: layer for layer in _layers(net)}
    return _Plan(layers, tuple(pair for pair, joined in joins if joined))


def _layers(net: HRNet) -> Iterator[_Layer]:
    yield _inner(("stem", "conv1"), "image", net.stem_width)
    yield _Layer(("stem", "conv2"), "stem/conv1", "stem", net.stem_width)
    yield from _stage1(net)
    for n, modules in enumerate(net.modules, start=2):
        yield from _transitions(net, n)
        for m in range(modules):
            last = n == 4 and m == modules - 1
            outputs = 1 if last and not net.all_outputs else n
            yield from _fused_module(net, (f"stage{n}", f"module{m}"), branches=n, outputs=outputs)


def _inner(path: Path, reads: str, width: int) -> _Layer:
    return _Layer(path, reads, "/".join(path), width)


def _stage1(net: HRNet) -> Iterator[_Layer]:
    channels = EXPANSION * net.stage1_width
    for k in range(net.stage1_blocks):
        block = ("stage1", f"block{k}")
        reads = "stage1" if k else "stem"
        yield _inner((*block, "conv1"), reads, net.stage1_width)
        yield _inner((*block, "conv2"), "/".join((*block, "conv1")), net.stage1_width)
        yield _Layer((*block, "conv3"), "/".join((*block, "conv2")), "stage1", channels)
        if k == 0 and net.stem_width != channels:
            yield _Layer((*block, "shortcut"), reads, "stage1", channels)


def _transitions(net: HRNet, n: int) -> Iterator[_Layer]:
    if n == 2 and EXPANSION * net.stage1_width != net.width:
        yield _Layer(("stage2", "transition0"), "stage1", "branch0", net.width)
    new = n - 1
    reads = "stage1" if n == 2 else f"branch{new - 1}"
    yield _Layer((f"stage{n}", f"transition{new}"), reads, f"branch{new}", net.width * 2**new)


def _fused_module(net: HRNet, module: Path, *, branches: int, outputs: int) -> Iterator[_Layer]:
    for i in range(branches):
        for k in range(net.blocks):
            block = (*module, f"branch{i}_block{k}")
            yield _inner((*block, "conv1"), f"branch{i}", net.width * 2**i)
            yield _Layer((*block, "conv2"), "/".join((*block, "conv1")), f"branch{i}", net.width * 2**i)
    for i in range(outputs):
        for j in range(i + 1, branches):
            yield _Layer((*module, f"fuse{i}_{j}"), f"branch{j}", f"branch{i}", net.width * 2**i)
        for j in range(i):
            yield from _way_down(net, module, j, i)


def _way_down(net: HRNet, module: Path, j: int, i: int) -> Iterator[_Layer]:
    reads = f"branch{j}"
    for k in range(i - j):
        path = (*module, f"fuse{i}_{j}_step{k}")
        if k == i - j - 1:
            yield _Layer(path, reads, f"branch{i}", net.width * 2**i)
        else:
            yield _inner(path, reads, net.width * 2**j)
        reads = "/".join(path)
