"""Exported files that are not what their cards say: one clear error, whatever the runtime makes of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmkd import kept_configs, opened
from lmkd.configs import common
from lmkd.core import schemes
from lmkd.core.errors import UserError
from lmkd.exporters import card


def export(folder, form, file, **changes):
    """An export's folder whose file is no model at all, and whose card is right about that file."""
    folder.mkdir()
    (folder / file).write_bytes(b"no model of any kind" * 10)
    whole = {
        "format": form, "file": file, "scheme": json.loads(schemes.FACE68.to_json()), "image_px": 64, "crop": {"scale": 1.25},
        "flip_test": False, "config": json.loads(kept_configs.to_json(common.get_config())),
        "checkpoint": {"label": "best", "step": 3}, "training_data": [],
    }  # fmt: skip
    card.write(folder, whole | changes)
    return folder


@given(st.integers(1, 5000), st.integers(1, 16))
def test_a_batch_is_padded_to_equal_shares_for_any_number_of_devices(count, devices):
    size = opened._padded(count, devices)
    assert size >= count and size % devices == 0 and size < 2 * count + devices


@pytest.mark.parametrize(("form", "file"), [("stablehlo", "model.stablehlo"), ("onnx", "model.onnx")])
def test_a_file_that_its_runtime_cannot_read_is_refused(tmp_path, form, file):
    pytest.importorskip({"stablehlo": "flatbuffers", "onnx": "onnxruntime"}[form])
    with pytest.raises(UserError, match=f"{file} cannot be opened as {form}: "):
        opened.open_model(export(tmp_path / "a", form, file))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "pickle"}, "unknown export format 'pickle'"),
        ({"scheme": {"points": 1 << 50}}, "`points` must be a whole number"),
        ({"checkpoint": {}}, "KeyError: 'label'"),
        ({"training_data": [{"evil": 1}]}, "unexpected keyword argument 'evil'"),
        ({"config": {"stage": 3}}, "is not one of lmkd's"),
    ],
    ids=["format", "scheme", "checkpoint", "provenance", "config"],
)
def test_a_card_that_cannot_be_used_is_refused(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr("lmkd.exporters.stablehlo.runner", lambda path, threads: None)
    with pytest.raises(UserError, match=message):
        opened.open_model(export(tmp_path / "a", "stablehlo", "model.stablehlo", **changes))
