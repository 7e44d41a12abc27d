"""The suite on faces in memory: every pass is there, counted, and through the same two programs."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from small_faces import SCHEME, Faces
from tiny_models import tiny

from lmkd import build, robustness, scoring
from lmkd.configs import common
from lmkd.core import schemes
from lmkd.core.errors import UserError
from lmkd.data.corruptions import KINDS, STRENGTHS
from lmkd.models import attack
from lmkd.models.readout import Heatmaps
from lmkd.ops import heatmaps

SIDE, STRIDE = 32, 4
# A scheme that has the faces' four points among its six, in another order.
LARGER = schemes.from_json(f'{{"name": "larger", "points": 6, "subsets": {{"{SCHEME.name}": [5, 1, 0, 3]}}}}')


def soft_decode(maps):
    """Decodes as the attack's objective does, so that a stronger attack is a larger NME, whatever the network."""
    points_cells = heatmaps.cells_from_px(attack.soft_points_px(maps, stride=STRIDE), STRIDE)
    return points_cells, maps.max(axis=(1, 2))


def loaded_model(scheme=SCHEME, decode=soft_decode):
    config = common.get_config()
    config.data.image_px = SIDE
    config.evaluation.batch_size = 4
    config.evaluation.flip_test = False
    model = dataclasses.replace(tiny(points=scheme.num_points), readout=Heatmaps(decode))
    variables = model.init(jax.random.key(0), np.zeros((1, SIDE, SIDE, 3), np.uint8))
    return build.Loaded(model, variables, scheme, config, {"stage": "student"}, Path("runs/x/30"), "best")


def run(monkeypatch, loaded, faces=None, **options):
    monkeypatch.setattr(scoring, "records", lambda *_: faces or Faces(6))
    return robustness.run(loaded, loaded.config, "own:test", crop="landmarks", **options)


def test_every_kind_at_every_strength_through_two_programs(monkeypatch):
    traced = []

    def decode(maps):
        traced.append(maps.shape)
        return soft_decode(maps)

    few = run(monkeypatch, loaded_model(decode=decode), kinds=("blur",), strengths=(1,), attacks=(2,), attack_steps=2)
    once = len(traced)
    assert [(e.kind, e.strength) for e in few.entries] == [("blur", 1)] and once > 0
    told = []
    traced.clear()
    found = run(monkeypatch, loaded_model(decode=decode), attack_steps=2, progress=told.append)
    assert len(traced) == once  # 41 passes and 4 attacks are traced as often as 2 and 2
    assert [(e.kind, e.strength) for e in found.entries] == [(k, s) for k in KINDS for s in STRENGTHS]
    assert [e.strength for e in found.attacks] == [0, 2, 4, 8] and len(told) == 45
    assert all(e.faces == 6 for e in (found.clean, *found.entries, *found.attacks))
    assert found.mean_corrupted == pytest.approx(np.mean([e.nme_percent for e in found.entries]))
    assert (found.evaluated, found.skipped, found.available) == (6, 0, 6)
    assert found.threshold == 0.10 and found.normaliser == "eyes"


@pytest.mark.parametrize("scheme", [SCHEME, LARGER], ids=["same_scheme", "larger_scheme"])
def test_an_attack_begins_at_the_clean_score_and_grows(monkeypatch, scheme):
    found = run(monkeypatch, loaded_model(scheme), kinds=(), attacks=(8, 2), attack_steps=3)
    nothing, weak, strong = found.attacks
    assert nothing.nme_percent == pytest.approx(found.clean.nme_percent, rel=1e-4)
    assert nothing.nme_percent < weak.nme_percent < strong.nme_percent
    assert nothing.error_px < weak.error_px < strong.error_px
    assert (nothing.setting, strong.setting) == ("none", "within 8/255, 3 steps")
    assert found.entries == () and np.isnan(found.mean_corrupted)


def test_unreadable_faces_are_counted_and_a_limit_takes_the_first(monkeypatch):
    loaded = loaded_model()
    loaded.config.data.on_unreadable = "skip"
    found = run(monkeypatch, loaded, Faces(6, broken=(1, 5)), kinds=("dark",), strengths=(5,), attacks=(), limit=4)
    assert (found.evaluated, found.skipped, found.available) == (3, 1, 6)
    assert found.clean.faces == found.entries[0].faces == 3 and found.attacks == ()
    alone = run(monkeypatch, loaded, Faces(4, broken=(1,)), kinds=("dark",), strengths=(5,), attacks=())
    assert found.entries == alone.entries and found.clean == alone.clean


@pytest.mark.parametrize(
    ("options", "part"),
    [({"kinds": ("drak",)}, "Did you mean 'dark'"), ({"strengths": (6,)}, "strength 6"), ({"limit": 0}, "limit: 0")],
)
def test_what_is_wrong_is_told_before_a_face_is_read(monkeypatch, options, part):
    with pytest.raises(UserError) as error:
        run(monkeypatch, loaded_model(), **options)
    assert part in str(error.value)
