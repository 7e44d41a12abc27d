"""The models that come with the package: found by name, whole, free of their maker's paths, and as exact as their cards say."""

import json

import cv2
import numpy as np
import pytest

import lmkd
from lmkd import opened, pretrained, scoring
from lmkd.core import schemes
from lmkd.core.errors import UserError
from lmkd.data import preparation
from lmkd.data_builders.synthetic_faces import drawing

DRAWN = {
    "synthetic68": 0.043,
    "faces68-0.3m": 0.046,
    "faces68-1m": 0.046,
    "faces68-2m": 0.041,
}  # median NME of the eight faces below
REAL = [name for name in pretrained.names() if name != "synthetic68"]  # it has never seen a real face
MOST_BYTES = 5_000_000


def test_a_file_on_disk_goes_before_a_pretrained_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pretrained.resolve("synthetic68").parent.name == "pretrained"
    (tmp_path / "synthetic68").mkdir()
    assert not pretrained.resolve("synthetic68").is_absolute()


def test_an_unknown_model_is_told_with_the_nearest_name():
    with pytest.raises(UserError, match="no such file or folder.*Did you mean 'synthetic68'"):
        pretrained.resolve("synthetic86")


def test_the_default_is_one_of_them():
    assert pretrained.DEFAULT in REAL


@pytest.mark.parametrize("name", pretrained.names())
def test_a_model_is_small_has_a_card_and_no_path_of_its_maker(name):
    files = [file for file in pretrained.resolve(name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES
    for file in files:
        assert not any(place in file.read_bytes() for place in (b"/home", b"/tmp/", b"/root", b"/work")), file
    card = pretrained.resolve(name).with_name(f"{name}.md").read_text()
    for part in ("NME", "Licence", "Limits", "trained on"):
        assert part in card, part


@pytest.mark.parametrize("name", pretrained.names())
def test_a_model_finds_the_points_of_drawn_faces(name):
    predictor = lmkd.load(name, detector="whole")
    shared = list(schemes.get("wflw98").subset_indices("300w68"))
    errors = []
    for record in drawing.draw_records(99, range(8), 128, workers=1):
        image = cv2.imdecode(np.frombuffer(record.jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        true = record.landmarks98_px[shared]
        (found,) = predictor(np.ascontiguousarray(image), boxes=[[*true.min(0), *true.max(0)]]).landmarks_px
        errors.append(np.linalg.norm(found - true, axis=-1).mean() / np.linalg.norm(true[36] - true[45]))
    assert predictor.scheme.name == "300w68"
    assert np.median(errors) == pytest.approx(DRAWN[name], abs=0.004)  # a network that has learnt nothing has 0.4


@pytest.fixture(scope="module")
def prepared(real_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    preparation.prepare("the300w", manual_dir=real_data / "the300w", data_dir=folder, partial=True, progress=False)
    return folder


@pytest.mark.parametrize("name", REAL)
def test_a_model_has_its_card_s_score_on_real_faces(name, prepared):
    (expected,) = json.loads((pretrained.resolve(name) / "model.json").read_text())["scores"]
    model = opened.open_model(name)
    model.config.data.data_dir = str(prepared)
    assert expected["data"].endswith(":common") and expected["evaluated"] == 554
    assert tuple(model.config.data.test) == ("the300w:common",)  # whoever has the set, under whatever preparation's name
    result = scoring.score_split(model, model.config, "the300w:common", crop="landmarks", provenance="").result
    # The card's score is the checkpoint's, in float32 and perhaps with the flip test; the model here is what is shipped.
    wanted = expected["overall"]["nme_percent"]
    assert wanted - 0.02 < result.scores.overall.nme_percent < wanted + (0.03 if model.flip_test else 0.15)
