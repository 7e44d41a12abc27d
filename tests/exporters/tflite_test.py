"""TFLite files of a tiny checkpoint; needs the extra `export`, which the suite's environment may lack."""

import numpy as np
import pytest
import tiny_checkpoint

from lmkd import build, exporting
from lmkd.opened import open_model

pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")
pytest.importorskip("ai_edge_quantizer")

SIDE = tiny_checkpoint.SIDE_PX
NAMES = ("tflite", "tflite_float16", "tflite_dynamic_int8", "tflite_int8")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_each_precision_is_as_exact_as_it_says_and_decodes_in_float(tmp_path):
    loaded = build.load(tiny_checkpoint.write(tmp_path / "checkpoint"))
    crops = exporting.Crops(*np.random.default_rng(0).integers(0, 256, (2, 4, SIDE, SIDE, 3), np.uint8), "noise")
    done = {e.format: e for e in exporting.export(loaded, NAMES, tmp_path / "out", crops=crops)}
    assert done["tflite"].difference.mean_px < 1e-4
    for name in NAMES:
        found = open_model(tmp_path / "out" / name).run(crops.check[:2])
        assert found.heatmaps.shape == (2, SIDE // 4, SIDE // 4, 68) and found.landmarks_px.dtype == np.float32
        # Coordinates in int8 would have at most 256 values over both faces.
        assert len(np.unique(found.landmarks_px)) > 256
    assert 0 < done["tflite_float16"].difference.mean_px < done["tflite_int8"].difference.mean_px
