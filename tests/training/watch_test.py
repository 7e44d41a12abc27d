"""The watch over critics: what counts as collapsed, how long it must last, and that each thing is said once."""

import pytest

from lmkd.training.watch import CriticWatch


def row(real: float, fake: float, term: str = "judge") -> dict[str, float]:
    return {f"{term}/real_accuracy": real, f"{term}/fake_accuracy": fake, "loss": 1.0}


def fed(watch: CriticWatch, rows) -> list[tuple[int, str]]:
    return [(step, message) for step, values in rows for message in watch.look(step, values)]


@pytest.mark.parametrize(
    ("real", "fake", "words"),
    [
        (1.0, 0.98, "almost without fail"),
        (0.99, 0.02, "calls every map real"),
        (0.0, 0.7, "calls every map fake"),
        (0.01, 0.0, "the other way round"),
    ],
)
def test_an_extreme_is_said_once_when_it_has_lasted(real, fake, words):
    watch = CriticWatch(patience_steps=100)
    said = fed(watch, [(step, row(real, fake)) for step in range(10, 400, 10)])
    assert [step for step, _ in said] == [110]  # first seen at 10
    assert words in said[0][1] and "'judge'" in said[0][1] and "since step 10" in said[0][1]


@pytest.mark.parametrize(("real", "fake"), [(0.97, 1.0), (1.0, 0.97), (0.5, 0.5), (0.03, 1.0), (1.0, 0.03)])
def test_anything_between_the_bounds_is_healthy(real, fake):
    watch = CriticWatch(patience_steps=100)
    assert fed(watch, [(step, row(real, fake)) for step in range(0, 1000, 50)]) == []
    assert watch.notices() == []


def test_recovery_is_said_once_and_one_odd_batch_is_neither():
    watch = CriticWatch(patience_steps=100)
    odd = [(step, row(0.8, 0.9) if step == 50 else row(1.0, 1.0)) for step in range(0, 150, 10)]
    assert fed(watch, odd) == []  # the odd row at 50 starts the count anew, at 60
    said = fed(watch, [(160, row(1.0, 1.0)), (170, row(0.8, 0.8))] + [(step, row(1.0, 1.0)) for step in range(180, 400, 10)])
    assert [step for step, _ in said] == [160]
    said = fed(watch, [(step, row(0.8, 0.7)) for step in range(400, 700, 50)])
    assert [(step, "recovered" in text) for step, text in said] == [(500, True)]
    assert [text.split(":")[0] for text in watch.notices()] == ["step 160", "step 500"]


def test_one_collapse_that_turns_into_another_is_said_again():
    watch = CriticWatch(patience_steps=20)
    said = fed(watch, [(step, row(1.0, 1.0)) for step in range(0, 50, 10)] + [(s, row(1.0, 0.0)) for s in range(50, 100, 10)])
    assert [step for step, _ in said] == [20, 70]
    assert "calls every map real" in said[1][1]


def test_critics_are_followed_apart_and_rows_without_them_say_nothing():
    watch = CriticWatch(patience_steps=20)
    rows = [(step, row(1.0, 1.0, "a") | row(0.6, 0.7, "b")) for step in range(0, 50, 10)]
    rows.insert(1, (5, {"loss": 1.0, "validation/nme": 7.0, "c/real_accuracy": 0.0}))
    said = fed(watch, rows)
    assert len(said) == 1 and "'a'" in said[0][1]


def test_a_wasserstein_critic_may_tell_everything_apart():
    rows = [(step, row(1.0, 1.0) | {"judge/gap": 0.4}) for step in range(0, 100, 10)]
    assert fed(CriticWatch(patience_steps=20), rows) == []
    lost = [(step, row(1.0, 0.0) | {"judge/gap": -0.4}) for step in range(0, 100, 10)]
    assert [step for step, _ in fed(CriticWatch(patience_steps=20), lost)] == [20]


def test_a_critic_at_rest_is_not_looked_at():
    watch = CriticWatch(patience_steps=20, awake_from={"judge": 100})
    said = fed(watch, [(step, row(1.0, 0.0)) for step in range(0, 200, 10)])
    assert [step for step, _ in said] == [130]  # the row of step 110 is the first after an update


def test_a_resumed_run_goes_on_where_the_rows_end():
    rows = [(step, row(1.0, 1.0)) for step in range(0, 400, 10)]
    whole, resumed = CriticWatch(patience_steps=100), CriticWatch(patience_steps=100)
    fed(whole, rows)
    for step, values in rows[:20]:
        resumed.look(step, {"step": step, **values})  # as metrics.jsonl has it; the answer is dropped
    assert fed(resumed, rows[15:]) == []  # rows seen before are left out, and nothing is said twice
    assert resumed.notices() == whole.notices() != []
