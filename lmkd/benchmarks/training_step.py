"""One network's training step against PyTorch's, and against what the machine could do (the roofline).

Ours is THE step of a stage without teachers: uint8 crops in, targets drawn, forward, backward, update. PyTorch's rows are the
same HRNet under AdamW and the squared error to targets that are given: the least that anybody would write. They come where
torch is installed and the network is one that `torch_hrnet` can build.

The roofline is the larger of two times: the compiled step's floating-point operations over the rate of a large product in its
compute type, and its bytes over the rate of a large copy, both measured in the same rounds. XLA counts an array's bytes at
every operation that touches it; what stays in a cache is counted too, so a step can be faster than "its" roofline.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from lmkd import config as configs
from lmkd import stages
from lmkd.benchmarks import torch_hrnet
from lmkd.benchmarks.drawn import compiled_step, crops_of_noise, drawn, num_points
from lmkd.benchmarks.rounds import Part, Timing, Topic, table, timed
from lmkd.core.errors import UserError, unknown

PRODUCT_SIDE = {"cpu": 2048}  # of the square matrices of the measured product; 8192 elsewhere
COPIED_BYTES = {"cpu": 128_000_000}  # of the measured copy; 2 GB elsewhere


def run(config: ConfigDict, *, stage: str, rounds: int, progress: Callable[[str], None] = lambda text: None) -> Topic:
    """Measures one stage's step.

    Args:
      config: an experiment with a stage without teachers.
      stage: its name; "" is the first one of config.stages that has none.
      rounds: of all parts.
      progress: told what goes on.

    Raises:
      UserError: the config cannot run, or has no such stage.
    """
    configs.check(config)
    name = _chosen(config, stage)
    training, batch_size = drawn(config, name), config.stage[name].train.batch_size
    progress(f"compiling stage {name}")
    step = compiled_step(training, batch_size)
    dtype = training.net.dtype
    product, copy, (flops, copied) = _rates(dtype)
    parts = [Part("ours", "the step as it trains", step.call), product, copy]
    theirs, missing = _torch(training, batch_size)
    timings = timed([*parts, *theirs], rounds=rounds, progress=progress)
    seconds = {t.name: t.median_ms / 1e3 for t in timings}
    rates = {"flop_per_s": flops / seconds[product.name], "bytes_per_s": copied / seconds[copy.name]}
    bounds = {
        "by_flops_ms": 1e3 * step.flops / rates["flop_per_s"],
        "by_bytes_ms": 1e3 * step.bytes_accessed / rates["bytes_per_s"],
    }
    figures = {
        "rows": [t.figures() for t in timings],
        "step": {"flops": step.flops, "bytes_accessed": step.bytes_accessed, "peak_bytes": step.peak_bytes},
        "roofline": rates | bounds,
        "missing": missing,
    }
    conditions = {
        "stage": name,
        "image_px": training.options.image_px,
        "batch_size": batch_size,
        "dtype": jnp.dtype(dtype).name,
        "left out": missing,
    }
    return Topic("a training step", conditions, _table(timings, batch_size, max(bounds.values())), figures)


def _chosen(config: ConfigDict, stage: str) -> str:
    plain = [name for name in config.stages if not config.stage[name].teachers]
    if stage and stage not in plain:
        raise unknown("stage without teachers", stage, plain, "--stage")
    if not plain:
        raise UserError(f"every stage of {', '.join(config.stages)} has teachers: take --what=distillation_step")
    return stage or plain[0]


def _rates(dtype: Any) -> tuple[Part, Part, tuple[float, float]]:
    """A large product and a large copy, on one device; and how many operations and bytes they are."""
    backend, device = jax.default_backend(), jax.local_devices()[0]
    side, size = PRODUCT_SIDE.get(backend, 8192), COPIED_BYTES.get(backend, 2_000_000_000)
    a = jax.device_put(jnp.asarray(np.random.default_rng(0).standard_normal((side, side)), dtype), device)
    x = jax.device_put(jnp.zeros(size // 4, jnp.float32), device)
    multiply, shift = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    product = Part("product", f"{side} x {side} matrices, {jnp.dtype(dtype).name}", lambda: multiply(a, a))
    copy = Part("copy", f"{size / 1e6:.0f} MB read and written", lambda: shift(x))
    return product, copy, (2.0 * side**3, 2.0 * size)


def _torch(training: stages.Training, batch_size: int) -> tuple[list[Part], str]:
    """PyTorch's rows, or why there are none."""
    try:
        network = torch_hrnet.like(training.net)
    except torch_hrnet.Unlike as error:
        return [], str(error)
    import torch

    on_gpu = jax.default_backend() == "gpu"
    if jax.default_backend() != "cpu" and not (on_gpu and torch.cuda.is_available()):
        return [], f"PyTorch: it sees no {jax.default_backend()}"
    device, side, points = "cuda" if on_gpu else "cpu", training.crop_px, num_points(training)
    half = training.net.dtype == jnp.bfloat16
    network = network.train().to(device, memory_format=torch.channels_last)
    crops = torch.from_numpy(crops_of_noise(batch_size, side, points)["image"]).to(device)
    targets = torch.rand(batch_size, points, side // training.net.stride, side // training.net.stride, device=device)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)

    def stepping(heatmaps: Callable[[Any], Any]) -> Callable[[], None]:
        def call() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = torch.nn.functional.mse_loss(heatmaps(crops).float(), targets)
            loss.backward()
            optimizer.step()
            if on_gpu:
                torch.cuda.synchronize()

        return call

    what = f"the same HRNet, channels last, {'bfloat16 autocast' if half else 'float32'}"
    return [
        Part("PyTorch eager", what, stepping(network.heatmaps)),
        Part("PyTorch compiled", what, stepping(torch.compile(network.heatmaps, dynamic=False))),
    ], ""


def _table(timings: list[Timing], batch_size: int, roofline_ms: float) -> str:
    ours = timings[0].median_ms
    rows = []
    for t in timings:
        step = t.name not in ("product", "copy")
        speed = f"{1e3 * batch_size / t.median_ms:.1f}" if step else ""
        ratio = f"{t.median_ms / ours:.2f}" if step else ""
        rows.append((t.name, t.what, f"{t.first_call_s:.1f}", f"{t.median_ms:.1f}", t.spread(), speed, ratio))
    rows.append(("roofline", "of the compiled step", "", f"{roofline_ms:.1f}", "", "", f"{roofline_ms / ours:.2f}"))
    return table(("part", "what it holds", "first call s", "median ms", "quartiles ms", "faces/s", "time / ours"), rows)
