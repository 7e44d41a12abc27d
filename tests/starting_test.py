import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from tiny_models import tiny

from lmkd import build, starting
from lmkd import config as configs
from lmkd.core.errors import UserError
from lmkd.models import initialise
from lmkd.training import optimisers, vectors


@pytest.fixture
def part():
    """A stage that starts from its teacher "before"."""
    part = configs.load("configs/quickstart.py:smoke").stage.student
    part.model.start_from = "before"
    return part


def trained(net, seed, model=None):
    """What `build.load` gives, of a network drawn from another seed, whose stage has this config of its model."""
    variables = initialise.initial_variables(net, 32, seed=seed)
    config = ConfigDict({"stage": {"first": {"model": model or {}}}})
    return build.Loaded(net, variables, None, config, {"stage": "first"}, None, "last")


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def test_parts_are_taken_over_and_the_rest_is_drawn(part):
    net = tiny(norm=True)
    before, drawn = trained(net, 1), initialise.initial_variables(net, 32, seed=0)
    part.model.start_parts = ("backbone",)
    found = starting.first_variables(net, part, 32, 0, {"before": before})
    assert same(found["params"]["backbone"], before.variables["params"]["backbone"])
    assert same(found["batch_stats"]["backbone"], before.variables["batch_stats"]["backbone"])
    assert same(found["params"]["head"], drawn["params"]["head"])
    assert not same(found["params"]["head"], before.variables["params"]["head"])


def test_weights_of_another_shape_are_refused(part):
    before = trained(tiny(points=5), 1, part.model.to_dict())
    with pytest.raises(UserError, match=r"does not fit.*(?s:.*)misshapen: head/.* is \[1, 1, 4, 5\], here \[1, 1, 4, 3\]"):
        starting.first_variables(tiny(points=3), part, 32, 0, {"before": before})


def test_settings_that_make_weights_misfit_are_told_first(part):
    theirs = part.model.to_dict()
    theirs["backbone_options"] = {**theirs["backbone_options"], "width": 16}
    theirs["head"], theirs["colour"] = "heads.V2p", "grey"
    del theirs["backbone_options"]["rematerialise"]  # an older network's
    with pytest.raises(UserError) as told:
        starting.first_variables(tiny(points=3), part, 32, 0, {"before": trained(tiny(points=5), 1, theirs)})
    assert str(told.value).splitlines()[1:4] == [
        "  - model.colour: grey there, rgb here",
        f"  - model.backbone_options.width: 16 there, {part.model.backbone_options.width} here",
        "  - model.head: heads.V2p there, heads.V2 here",
    ]


def test_a_spared_part_stays_even_under_weight_decay():
    params = {"backbone": {"kernel": np.ones((2, 2), np.float32)}, "head": {"kernel": np.ones((2, 2), np.float32)}}
    options = {"weight_decay": 0.1, "clip_norm": 1.0, "momentum": 0.9, "b2": 0.999}
    transform = optimisers.sparing(optimisers.optimiser("adamw", lambda _: 0.1, **options), ("backbone",))
    joined = vectors.joined(params)
    updates, _ = transform.update(jax.tree.map(np.ones_like, joined), transform.init(joined), joined)
    new = vectors.parted(optax.apply_updates(joined, updates), params)
    np.testing.assert_array_equal(new["backbone"]["kernel"], 1.0)
    assert np.all(new["head"]["kernel"] < 0.95)
