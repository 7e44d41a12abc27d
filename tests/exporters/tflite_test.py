"""TFLite files of a tiny checkpoint; needs the extra `export`, which the suite's environment may lack."""

import jax
import numpy as np
import pytest
import tiny_checkpoint

from lmkd import build
from lmkd.exporters import graph, tflite

pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")
pytest.importorskip("ai_edge_quantizer")

SIDE = tiny_checkpoint.SIDE_PX


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    loaded = build.load(tiny_checkpoint.write(tmp_path_factory.mktemp("tiny") / "checkpoint"))
    return graph.of(loaded.model, loaded.variables, image_px=SIDE, flip=None)


@pytest.fixture(scope="module")
def crops():
    return np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)


# How far heatmaps may lie from float32's, of their range: float16 has 11 bits, int8 weights 7 and a sign, and
# int8 activations of drawn weights on noise fill their range badly.
@pytest.mark.parametrize(("variant", "low", "high"), [
    ("float32", 0, 1e-5), ("float16", 1e-6, 1e-3), ("dynamic_int8", 1e-3, 0.05), ("int8", 1e-3, 0.2),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_precision_is_as_exact_as_it_should_be_and_decodes_in_float(variant, low, high, whole, crops, tmp_path):
    tflite.write(whole, tmp_path / "x.tflite", variant, crops)
    found, expected = tflite.runner(tmp_path / "x.tflite", 1)(crops), graph.reading(jax.jit(whole.run)(crops))
    apart = np.abs(found.heatmaps - expected.heatmaps).max() / np.ptp(expected.heatmaps)
    assert low <= apart < high
    # Whatever the heatmaps have lost, decoding loses nothing more.
    decoded = jax.jit(whole.model.readout._decoded)(found.heatmaps)
    np.testing.assert_allclose(found.landmarks_px, decoded.landmarks_px, atol=1e-3)
    np.testing.assert_allclose(found.confidence, found.heatmaps.max(axis=(1, 2)), rtol=1e-6)
