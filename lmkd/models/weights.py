"""Import of published PyTorch HRNets.

    state = load_state_dict("HR18-WFLW.pth")                   # or .safetensors, .npz
    variables = convert(state, variables)                      # a whole network of the same head and number of points
    variables = convert(state, variables, backbone_only=True)  # ImageNet or another head: the head keeps its values

Reads the names of the facial-landmark code (HRNetV2: `head.0`, `head.1`, `head.3`), of the pose code (`final_layer`)
and of the ImageNet classification code, which share their backbone's.
"""

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from lmkd.core.errors import UserError, report_together

_STAGE = r"backbone/stage([234])/module(\d+)"
# Our module -> the names its convolution and its batch norm may have there; \N are the pattern's groups.
_NAMES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (r"backbone/stem/conv(\d)", (r"conv\1",), (r"bn\1",)),
    (r"backbone/stage1/block(\d+)/conv(\d)", (r"layer1.\1.conv\2",), (r"layer1.\1.bn\2",)),
    (r"backbone/stage1/block(\d+)/shortcut", (r"layer1.\1.downsample.0",), (r"layer1.\1.downsample.1",)),
    (r"backbone/stage2/transition0", ("transition1.0.0",), ("transition1.0.1",)),
    # The branch that stage N starts is branch N - 1, and the transition before stage N is called transition N - 1.
    (r"backbone/stage[234]/transition([123])", (r"transition\1.\1.0.0",), (r"transition\1.\1.0.1",)),
    (
        _STAGE + r"/branch(\d)_block(\d+)/conv(\d)",
        (r"stage\1.\2.branches.\3.\4.conv\5",),
        (r"stage\1.\2.branches.\3.\4.bn\5",),
    ),
    (_STAGE + r"/fuse(\d)_(\d)", (r"stage\1.\2.fuse_layers.\3.\4.0",), (r"stage\1.\2.fuse_layers.\3.\4.1",)),
    (
        _STAGE + r"/fuse(\d)_(\d)_step(\d)",
        (r"stage\1.\2.fuse_layers.\3.\4.\5.0",),
        (r"stage\1.\2.fuse_layers.\3.\4.\5.1",),
    ),
    (r"head/mix", ("head.0",), ("head.1",)),
    (r"head/final", ("head.3", "final_layer"), ()),
)
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# Tensors that a whole network has and its backbone alone does not: other heads, and the last module's exchange down to
# the lower branches, which a backbone with all_outputs=False leaves out.
_NOT_BACKBONE = re.compile(r"(incre_modules|downsamp_modules|final_layer|classifier|head)\.|stage4\.\d+\.fuse_layers\.[123]\.")


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
    try:
        return readers[path.suffix](path)
    except UserError:
        raise
    except Exception as error:  # three libraries, each with errors of its own for a damaged file
        raise UserError(f"weights {path}: cannot be read as {path.suffix}: {type(error).__name__}: {error}") from error


def convert(state: Mapping[str, np.ndarray], variables: Mapping, *, backbone_only: bool = False) -> dict:
    """Puts a published state dict into a landmarker's variables.

    Args:
      state: PyTorch tensor name -> array; a leading "module." is dropped and `num_batches_tracked` ignored.
      variables: {"params": ..., "batch_stats": ...} of a `Landmarker` of an `HRNet` with a V1 or V2 head; arrays or,
        where everything is replaced, shapes (jax.eval_shape).
      backbone_only: fills "backbone" and leaves "head" as it is; the state's head, classifier included, is ignored.

    Returns:
      New variables of the same structure; what was filled is float32 NumPy.

    Raises:
      UserError: lists every missing, extra and misshapen tensor at once.
    """
    state = {name.removeprefix("module."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    filled, used, problems = {}, set(), []
    for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
        if backbone_only and path[1] == "head":
            filled[path] = leaf
            continue
        names = _foreign_names(path)
        name = next((n for n in names if n in state), None)
        if name is None:
            problems.append(_missing(path, names))
            continue
        used.add(name)
        value = _from_torch(path, state[name])
        if value.shape != tuple(leaf.shape):
            needed = [leaf.shape[i] for i in (3, 2, 0, 1)] if len(leaf.shape) == 4 else list(leaf.shape)
            problems.append(f"misshapen: {name} is {list(np.shape(state[name]))}, the model needs {needed}")
        filled[path] = value
    extra = [n for n in state if n not in used and not (backbone_only and _NOT_BACKBONE.match(n))]
    problems += [f"extra: {name} {list(np.shape(state[name]))}" for name in extra]
    report_together(problems, "the weights do not fit the model" + _advice(problems, backbone_only), limit=len(problems))
    return traverse_util.unflatten_dict(filled)


def _foreign_names(path: tuple[str, ...]) -> list[str]:
    """Lists the PyTorch names that the variable at `path` (collection, modules..., layer, leaf) may have."""
    _, *modules, leaf = path
    layer = modules[-1] if modules and modules[-1] in ("conv", "bn") else "conv"
    module = "/".join(modules[:-1] if modules and modules[-1] in ("conv", "bn") else modules)
    for pattern, convolutions, norms in _NAMES:
        match = re.fullmatch(pattern, module)
        if match:
            return [f"{match.expand(name)}.{_LEAVES[leaf]}" for name in (norms if layer == "bn" else convolutions)]
    return []


def _from_torch(path, value) -> np.ndarray:
    value = np.asarray(value, np.float32)
    # Convolutions: [out, in, y, x] there, [y, x, in, out] here.
    return np.ascontiguousarray(value.transpose(2, 3, 1, 0)) if path[-1] == "kernel" and value.ndim == 4 else value


def _missing(path, names) -> str:
    ours = "/".join(path[1:])
    return f"missing: {' or '.join(names)} (for {ours})" if names else f"no published network has {ours}"


def _advice(problems, backbone_only) -> str:
    if not backbone_only and all(re.search(r" (head|final_layer)\b|head/", p) for p in problems):
        return "; only the head differs: backbone_only=True takes the backbone alone"
    return ""


def _read_npz(path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _read_safetensors(path) -> dict[str, np.ndarray]:
    library = _optional("safetensors.numpy", f'weights {path}: needs safetensors: pip install "lmkd[weights]"')
    return library.load_file(path)


def _read_torch(path) -> dict[str, np.ndarray]:
    torch = _optional(
        "torch", f"weights {path}: a {path.suffix} file needs torch (pip install torch), or convert it to .safetensors"
    )
    state = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in ("state_dict", "model"):  # checkpoints that keep the epoch and the optimiser beside the weights
        state = state[wrapper] if isinstance(state.get(wrapper), Mapping) else state
    return {name: value.float().numpy() for name, value in state.items()}


def _optional(module: str, message: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(message + ".") from error
