"""What an experiment does with a stage whose loss broke."""

import json
from types import SimpleNamespace

import pytest

from lmkd import config as configs
from lmkd import experiment, stages
from lmkd.data import pipeline
from lmkd.models import cost
from lmkd.training import loop


@pytest.fixture
def tried(monkeypatch) -> list[tuple[float, float]]:
    """The rates (student's, critics') of each try; the first two diverge."""
    rates = []

    def stage(config, name, folder, validate_with, teachers):
        rates.append((config.stage[name].optimizer.learning_rate, config.stage[name].critics.learning_rate))
        options = SimpleNamespace(total_steps=10, batch_size=4)
        iterator = SimpleNamespace(close=lambda: None)
        arguments = {"options": options, "iterator": iterator}
        return stages.Stage(None, 8, None, arguments, pipeline.Unreadable("skip"), None, ())

    def run(**_):
        if len(rates) < 3:
            raise loop.Diverged("the loss became NaN", 7 + len(rates))

    monkeypatch.setattr(stages, "stage", stage)
    monkeypatch.setattr(cost, "count", lambda net, image_px: ())
    monkeypatch.setattr(cost, "table", lambda rows: "")
    monkeypatch.setattr(loop, "run", run)
    return rates


def settings(**train):
    config = configs.load("configs/quickstart.py:plain,smoke")
    config.stage.student.optimizer.learning_rate, config.stage.student.critics.learning_rate = 0.1, 0.4
    config.stage.student.train.update(train)
    return config


def test_a_loss_that_breaks_goes_back_with_smaller_rates_so_many_times(tried, tmp_path):
    config = settings(retries=2, retry_rate=0.5)
    _, notices = experiment._trained(config, "student", tmp_path, {})
    assert tried == [(0.1, 0.4), (0.05, 0.2), (0.025, 0.1)]
    assert [n.split(" the loss")[0] for n in notices] == ["at step 8", "at step 9"]
    assert json.loads((tmp_path / "retries.json").read_text()) == notices
    assert config.stage.student.optimizer.learning_rate == 0.1  # the experiment's own config stays


def test_it_gives_up_after_so_many_and_a_restart_remembers_them(tried, tmp_path):
    with pytest.raises(loop.Diverged):
        experiment._trained(settings(retries=1), "student", tmp_path, {})
    assert len(tried) == 2
    experiment._trained(settings(retries=2), "student", tmp_path, {})
    assert tried[2] == (0.05, 0.2)
