"""Import of published PyTorch networks.

    state = load_state_dict("HR18-WFLW.pth")                   # or .safetensors, .npz
    variables = convert(state, variables, published_names(backbone))                      # a whole network of the same head
    variables = convert(state, variables, published_names(backbone), backbone_only=True)  # the head keeps its values

Which tensor goes where stands beside each backbone as `PUBLISHED_NAMES`, in the words of `lmkd.models.published`: a new
backbone brings its table along, nothing changes here. The heads' names are those of the HRNet landmark codes. A grey network
takes an RGB one's weights, its first layer's summed over the colours.
"""

import importlib
import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
from flax import traverse_util

from lmkd.core.errors import UserError, report_together
from lmkd.models.published import PublishedNames, Rule, conv_norm, kernel, layer

MOST_BYTES = 8 << 30
"""A file of weights that is larger, or unpacks to more, is refused: the largest backbone here has 0.3 GB."""

# The facial-landmark code (HRNetV2) calls them head.0, head.1 and head.3, the pose code final_layer.
_HEADS = (*conv_norm("head/mix", "head.0", "head.1"), *layer("head/final", "head.3"), *layer("head/final", "final_layer"))


def load_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a PyTorch state dict as NumPy arrays.

    Args:
      path: a `.npz`, a `.safetensors` (needs the extra `weights`) or a `.pth` / `.pt` (needs torch; read with
        weights_only=True, so that nothing in the file is executed).

    Returns:
      Tensor name -> array, as in the file.

    Raises:
      UserError: no such file, another format, a missing package, or a file that cannot be read.
    """
    path = Path(path)
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors, ".pth": _read_torch, ".pt": _read_torch}
    if path.suffix not in readers:
        raise UserError(f"weights {path}: cannot read {path.suffix or 'no suffix'!r}. Allowed: {', '.join(readers)}.")
    if not path.is_file():
        raise UserError(f"weights {path}: no such file.")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise UserError(f"weights {path}: {size / 2**30:.1f} GiB, more than the {MOST_BYTES >> 30} that are read")
    try:
        return readers[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # three libraries, each with errors of its own for a damaged file
        raise UserError(f"weights {path}: cannot be read as {path.suffix}: {type(error).__name__}: {error}") from error


def published_names(backbone: nn.Module) -> PublishedNames:
    """Returns the table that stands beside a backbone's class.

    Raises:
      UserError: its module has none.
    """
    kind = type(backbone)
    names = getattr(importlib.import_module(kind.__module__), "PUBLISHED_NAMES", None)
    if names is None:
        raise UserError(
            f"backbone {kind.__name__}: no published weights are known for it ({kind.__module__} has no PUBLISHED_NAMES). "
            "Leave the weights out, or write the table in the words of lmkd.models.published."
        )
    return names


def convert(
    state: Mapping[str, np.ndarray],
    variables: Mapping,
    names: PublishedNames,
    *,
    backbone_only: bool = False,
) -> dict:
    """Puts a published state dict into a landmarker's variables.

    Args:
      state: PyTorch tensor name -> array; a leading "module." is dropped and `num_batches_tracked` ignored.
      variables: {"params": ..., "batch_stats": ...} of a `Landmarker`; arrays or, where everything is replaced, shapes
        (jax.eval_shape).
      names: the backbone's table (`published_names`).
      backbone_only: fills "backbone" and leaves "head" as it is; the state's head, classifier included, is ignored.

    Returns:
      New variables of the same structure; what was filled is float32 NumPy.

    Raises:
      UserError: lists every missing, extra and misshapen tensor at once.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    unread = re.compile(rf"{names.derived}|.*num_batches_tracked$")
    elsewhere = re.compile(names.elsewhere)
    rules = [*(rule._replace(pattern=f"backbone/{rule.pattern}") for rule in names.rules), *_HEADS]
    filled: dict[tuple, Any] = {}
    used: set[str] = set()
    of_backbone: list[str] = []
    of_head: list[str] = []
    for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
        is_head = path[1] == "head"
        if is_head and backbone_only:
            filled[path] = leaf
            continue
        sources = _sources("/".join(path[1:]), rules)
        found = next((s for s in sources if all(n in state for n in s.names)), None)
        if found:
            used.update(found.names)
            filled[path], problem = _value(found, state, tuple(leaf.shape))
        else:
            problem = _missing("/".join(path[1:]), sources)
        if problem:
            (of_head if is_head else of_backbone).append(problem)
    for name in state:
        is_head = bool(elsewhere.match(name))
        if name not in used and not unread.match(name) and not (is_head and backbone_only):
            (of_head if is_head else of_backbone).append(f"extra: {name} {list(np.shape(state[name]))}")
    problems = of_backbone + of_head
    advice = "" if of_backbone else "; only the head differs: backbone_only=True takes the backbone alone"
    report_together(problems, f"the weights do not fit the model{advice}", limit=len(problems))
    return traverse_util.unflatten_dict(filled)


def _sources(path: str, rules: Iterable[Rule]) -> list[Rule]:
    """Lists the rules for a variable, their names filled in."""
    matches = ((rule, re.fullmatch(rule.pattern, path)) for rule in rules)
    return [rule._replace(names=tuple(map(match.expand, rule.names))) for rule, match in matches if match]


def _value(source: Rule, state, needed: tuple[int, ...]) -> tuple[np.ndarray | None, str]:
    """Returns a variable's value, and what is wrong with its shape or ""."""
    tensors = [np.asarray(state[name], np.float32) for name in source.names]
    given = " and ".join(f"{name} is {list(t.shape)}" for name, t in zip(source.names, tensors, strict=True))
    try:
        value = np.ascontiguousarray(source.transform(*tensors), np.float32)
    except ValueError as error:
        return None, f"misshapen: {given}: {error}"
    if value.ndim == 4 and value.shape[2] == 3 and needed == (*value.shape[:2], 1, value.shape[3]):
        value = value.sum(axis=2, keepdims=True)  # a grey network's first layer: what an RGB one makes of three equal channels
    if value.shape == needed:
        return value, ""
    if source.transform is kernel:  # told in PyTorch's order
        order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(needed), range(len(needed)))
        return value, f"misshapen: {given}, the model needs {[needed[i] for i in order]}"
    becomes = "" if len(tensors) == 1 and value.shape == tensors[0].shape else f", which gives {list(value.shape)}"
    return value, f"misshapen: {given}{becomes}, the model needs {list(needed)}"


def _missing(path: str, sources: list[Rule]) -> str:
    names = " or ".join(" and ".join(source.names) for source in sources)
    return f"missing: {names} (for {path})" if names else f"no published network has {path}"


def _read_npz(path) -> dict[str, np.ndarray]:
    _check_archive(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():  # NumPy would allocate what a header claims before it reads on
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise UserError(f"weights {path}: {member.filename} claims {list(shape)}, more than the file holds")
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _read_safetensors(path) -> dict[str, np.ndarray]:
    library = _optional("safetensors.numpy", f'weights {path}: needs safetensors: pip install "lmkd[weights]"')
    return library.load_file(path)  # the library holds the header's claims to the file's size


def _read_torch(path) -> dict[str, np.ndarray]:
    torch = _optional(
        "torch", f"weights {path}: a {path.suffix} file needs torch (pip install torch), or convert it to .safetensors"
    )
    if zipfile.is_zipfile(path):
        _check_archive(path)
    state = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):  # checkpoints that keep the epoch and the optimiser beside the weights
        state = state[wrapper] if isinstance(state.get(wrapper), Mapping) else state
    return {name: value.float().numpy() for name, value in state.items()}


def _check_archive(path: Path) -> None:
    """Refuses an archive that claims to unpack to more than `MOST_BYTES`; unpacking never gives more than was claimed."""
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
    if claimed > MOST_BYTES:
        raise UserError(f"weights {path}: unpacks to {claimed / 2**30:.1f} GiB, more than the {MOST_BYTES >> 30} that are read")


def _optional(module: str, message: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(message + ".") from error
