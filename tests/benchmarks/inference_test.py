"""The inference topic's bookkeeping, on a network of one convolution. No test looks at how long anything took."""

import pytest
from tiny_checkpoint import tiny_config

from lmkd.benchmarks import inference
from lmkd.core.errors import UserError
from lmkd.exporters import formats

pytest.importorskip("flatbuffers")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def config():
    found = tiny_config()
    found.scheme = "300w68"
    return found


def test_every_runtime_that_is_here_is_timed_on_every_batch(tmp_path, monkeypatch):
    few = {name: form for name, form in formats.every().items() if name in ("onnx", "orbax")}
    monkeypatch.setattr(formats, "every", lambda: few)
    assert inference.exported(config(), "student", tmp_path, lambda text: None) == []
    found = inference.measure(tmp_path, 1, 2)
    assert [(r["name"], r["batch"]) for r in found["rows"]] == [("jax.jit", 1), ("onnx", 1), ("jax.jit", 8), ("onnx", 8)]
    assert all(len(r["rounds_ms"]) == 2 and r["median_ms"] > 0 for r in found["rows"])
    wanted = "PyTorch: its rows are for an HRNet of basic blocks with head V2 and backbone_options.all_outputs=True"
    assert found["missing"] == [wanted]
    text = inference._table({1: found}, {"onnx": 1_500_000, "orbax": 2_000_000})
    assert text.startswith("| runtime | MB   | 1 core, 1 crop: ms | 1 core, 8 crops: ms |") and "| onnx    | 1.50 |" in text


def test_a_format_whose_package_is_missing_is_left_out_and_told(tmp_path, monkeypatch):
    few = {name: form for name, form in formats.every().items() if name in ("orbax", "stablehlo")}
    monkeypatch.setattr(formats, "every", lambda: few)
    module = formats.module(few["stablehlo"])

    def lacks(*_):
        raise formats.needs("flatbuffers", "StableHLO", ImportError("no such module"))

    monkeypatch.setattr(module, "write", lacks)
    (told,) = inference.exported(config(), "student", tmp_path, lambda text: None)
    assert told.startswith("stablehlo: ") and "pip install 'lmkd[export]'" in told
    assert [p.name for p in tmp_path.iterdir()] == ["orbax"]


def test_an_unknown_stage_is_told():
    with pytest.raises(UserError, match="no stage 'other'; config.stage has student"):
        inference.run(config(), stage="other", rounds=1)
