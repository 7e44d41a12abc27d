"""The benchmark's bookkeeping. No test looks at how long anything took."""

import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
from doors import TINY, door
from pod_test import SLOW

from lmkd import config as configs
from lmkd.benchmarks import (
    collectives,
    compilation,
    distillation_step,
    drawn,
    evaluation,
    feeding,
    growth,
    input_pipeline,
    memory,
    scaling,
    training_step,
)
from lmkd.benchmarks.rounds import Part, Timing, quartiles, table, timed
from lmkd.core.errors import UserError

PARTS = ["teacher v2p", "teacher w32", "student", "critics", "term adversarial_v2p", "term adversarial_w32", "term channel"]


@pytest.fixture
def config_path(monkeypatch) -> Path:
    """A config of tiny networks."""
    monkeypatch.syspath_prepend(str(TINY))
    return TINY / "quickstart.py"


def check(found):
    """What must hold of every file of the topic, whatever the machine."""
    assert [p["name"] for p in found["parts"]] == PARTS and found["whole"]["name"] == "step"
    medians = {p["name"]: p["median_ms"] for p in found["parts"]}
    assert all(ms > 0 for ms in medians.values()) and all(p["first_call_s"] > 0 for p in found["parts"])
    counted = sum(medians[name] for name in PARTS[:4])
    assert found["sum_ms"] == pytest.approx(counted)
    assert found["ratio"] == pytest.approx(found["whole"]["median_ms"] / counted)
    assert found["ratio_with_terms"] == pytest.approx(found["whole"]["median_ms"] / sum(medians.values()))


def test_the_door_times_parts_on_several_devices_prints_the_table_and_writes_the_figures(config_path, tmp_path):
    done = door(
        "benchmark", "--what=distillation_step", f"--config={config_path}", "--config.stage.student.critics.steps=2",
        "--rounds=2", f"--output={tmp_path / 'out'}", cwd=tmp_path, devices=2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "distillation_step.json").read_text())
    check(found)
    assert found["conditions"]["stage"] == "student" and found["conditions"]["rounds"] == 2
    assert found["conditions"]["image_px"] == {"student": 32, "v2p": 32, "w32": 32}
    assert [len(p["rounds_ms"]) for p in found["parts"]] == [2] * len(PARTS)
    assert found["parts"][3]["what"].startswith("2 update(s) of adversarial_v2p, adversarial_w32")
    assert "2 x cpu" in found["versions"]["devices"] and "2 x cpu" in done.stdout
    assert all(f"| {name} " in done.stdout for name in [*PARTS, "step", "sum"])
    assert f"{found['ratio']:.3f} (" in done.stdout


def test_a_plain_step_stands_beside_its_roofline(config_path):
    config = configs.load(str(config_path))
    topic = training_step.run(config, stage="", rounds=2)
    found = topic.figures
    assert [row["name"] for row in found["rows"]] == ["ours", "product", "copy"] and topic.conditions["stage"] == "teacher_w32"
    assert "basic blocks" in found["missing"] and found["step"]["peak_bytes"] > 0
    by_flops = found["step"]["flops"] / (2 * training_step.PRODUCT_SIDE["cpu"] ** 3) * found["rows"][1]["median_ms"]
    assert found["roofline"]["by_flops_ms"] == pytest.approx(by_flops) and by_flops > 0
    bound = max(found["roofline"]["by_flops_ms"], found["roofline"]["by_bytes_ms"])
    assert topic.table.splitlines()[-1].endswith(f"{bound / found['rows'][0]['median_ms']:.2f} |")
    with pytest.raises(UserError, match="stage without teachers 'student'"):
        training_step.run(config, stage="student", rounds=1)


def test_a_second_start_finds_its_programs(config_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (TINY.parents[1], TINY.parent, TINY))))
    found = compilation.run(configs.load(str(config_path)), stage="teacher_w32", rounds=1).figures["stages"]["teacher_w32"]
    assert found["cache_mb"] > 0
    for start in compilation.STARTS:
        one = found[start]
        assert one["in_all_s"] == pytest.approx(one["imports_s"] + one["building_s"] + one["first_step_s"])


def test_growth_changes_one_thing_a_row(config_path, monkeypatch):
    config = configs.load(str(config_path))
    rows = [(what, value, changed.stage.student) for what, value, changed in growth.variants(config, "student")]
    assert [row[:2] for row in rows[:5]] == [
        ("as it is", ""), ("batch", "16"), ("batch", "32"), ("side, px", "64"), ("side, px", "96"),
    ]  # fmt: skip
    none, one = (stage for what, _, stage in rows if what == "teachers")
    assert not none.teachers and all(t.type.startswith("ground_truth.") for t in none.terms.values())
    assert list(one.teachers) == ["v2p"] and "adversarial_v2p" in one.terms and "adversarial_w32" not in one.terms
    assert sorted(config.stage.student.teachers) == ["v2p", "w32"]
    for name in ("TIMES_BATCH", "TIMES_SIDE"):
        monkeypatch.setattr(growth, name, ())
    monkeypatch.setattr(growth.schemes, "SHIPPED", {"300w68": growth.schemes.get("300w68")})
    config.stage.student = none
    found = growth.run(config, stage="student", rounds=2).figures["rows"]
    assert [row["name"] for row in found] == ["as it is "] and found[0]["peak_bytes"] > 0 and found[0]["flops"] > 0


def test_a_wrong_topic_is_told_with_the_nearest(tmp_path):
    done = door("benchmark", "--what=destillation_step", cwd=tmp_path)
    assert done.returncode == 2 and "Did you mean 'distillation_step'?" in done.stderr and "Traceback" not in done.stderr


def test_stages_without_anything_to_measure_are_refused():
    config = configs.load("configs/quickstart.py:smoke")
    with pytest.raises(UserError, match="unknown stage with teachers 'teacher_w32'.*Allowed: student"):
        distillation_step.run(config, stage="teacher_w32", rounds=1)
    config.stage.student.train.micro_batches = 2
    with pytest.raises(UserError, match="micro_batches"):
        distillation_step.run(config, stage="", rounds=1)
    config.stages = ("teacher_w32",)
    with pytest.raises(UserError, match="no stage of teacher_w32 has teachers"):
        distillation_step.run(config, stage="", rounds=1)


def test_the_scheme_is_the_builders():
    config = configs.load("configs/wflw.py")
    assert drawn.declared_scheme(config).num_points == 98
    config.data.train = ("synthetic_faces/tiny_68:train",)
    assert drawn.declared_scheme(config).num_points == 68
    config.data.train = ("own_faces:train",)
    with pytest.raises(UserError, match="--config.scheme="):
        drawn.declared_scheme(config)


def test_rounds_are_interleaved_and_begin_with_each_part_in_turn():
    calls: list[str] = []
    ticks = iter([0.0, 5.0, 10.0, 12.0, *range(20, 28)])  # first calls of 5 s and 2 s, then 1 s each

    def part(name):
        return Part(name, "what", lambda: calls.append(name))

    a, b = timed([part("a"), part("b")], rounds=2, clock=lambda: float(next(ticks)))
    assert calls == ["a", "b", "a", "b", "a", "b", "b", "a"]
    assert (a.first_call_s, b.first_call_s) == (5.0, 2.0)
    assert a.rounds_ms == b.rounds_ms == (1000.0, 1000.0)


def test_ratios_are_of_medians_and_spreads_of_rounds():
    def timing(name, *ms):
        return Timing(name, "what", 1.0, ms)

    found = distillation_step.compared(
        [timing("teacher w32", 10.0, 10.0, 40.0), timing("student", 20.0, 30.0, 40.0), timing("critics", 10.0, 10.0, 20.0),
         timing("term channel", 10.0, 25.0, 100.0), timing("step", 44.0, 60.0, 200.0)]
    )  # fmt: skip
    assert found["sum_ms"] == 50.0 and found["ratio"] == pytest.approx(1.2)
    assert found["ratio_by_round_median"] == pytest.approx(1.2)  # of 44/40, 60/50, 200/100
    assert found["ratio_by_round_quartiles"] == pytest.approx((1.15, 1.6))
    assert found["sum_with_terms_ms"] == 75.0 and found["ratio_with_terms"] == pytest.approx(0.8)


def test_quartiles_by_hand():
    assert quartiles([3.0]) == (3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)


def test_a_table_is_aligned_markdown():
    assert table(("part", "what", "ms"), [("a", "longer", "10.5"), ("bb", "x", "1.0")]) == (
        "| part | what   |   ms |\n| ---- | ------ | ---: |\n| a    | longer | 10.5 |\n| bb   | x      |  1.0 |"
    )


def test_gradients_are_asked_of_the_maps_that_a_term_looks_at():
    def value(maps, rest):
        return (maps[0] * rest).sum() + 0 * maps[2].sum()

    leaves = [jax.ShapeDtypeStruct((2,), "float32")] * 3
    assert distillation_step._reached(value, leaves, leaves[0]) == [0, 2]


def test_collectives_are_counted_with_those_of_inner_programs():
    def step(x, y):
        with jax.named_scope("Landmarker"):
            mean = jax.lax.psum(x, "batch")
        summed = jax.jit(lambda v: jax.lax.psum(v * 2.0, "batch"))(y)
        return mean, jax.lax.psum((summed, x), "batch")

    traced = jax.make_jaxpr(step, axis_env=[("batch", 2)])(np.zeros((3,), np.float32), np.zeros((5, 2), np.float32))
    found = [("Landmarker" in scope, variable.aval.shape) for scope, variable in collectives.collectives(traced.jaxpr)]
    assert sorted(found) == [(False, (3,)), (False, (5, 2)), (False, (5, 2)), (True, (3,))]


def test_a_step_sends_its_gradients_once(config_path):
    found = collectives.run(configs.load(str(config_path)), stage="teacher_w32", rounds=1).figures["stages"]["teacher_w32"]
    assert found["norms"]["arrays"] > 0 and found["gradients"]["arrays"] == 1
    # Four bytes a parameter, and the sums of losses and counts.
    assert 4 * found["parameters"] < found["gradients"]["bytes"] < 4 * found["parameters"] + 400


def test_the_input_pipeline_is_measured_on_one_core_and_on_all(config_path, tmp_path, monkeypatch):
    monkeypatch.setattr(input_pipeline, "FACES", 8)
    config = configs.load(str(config_path))
    config.data.data_dir = str(tmp_path / "data")
    rates = input_pipeline.run(config, stage="", rounds=2).figures["faces_per_second"]
    assert list(rates)[:3] == ["decode, 1 core", "face, 1 core", "batches, 1 core(s)"]
    assert all(len(r) == 2 and min(r) > 0 for r in rates.values())


def test_a_fed_step_stands_beside_one_that_has_its_batch(config_path, tmp_path, monkeypatch):
    monkeypatch.setattr(feeding, "STEPS", 2)
    config = configs.load(str(config_path))
    config.data.data_dir = str(tmp_path / "data")
    topic = feeding.run(config, stage="teacher_w32", rounds=3)
    rows = {row["name"]: row for row in topic.figures["rows"]}
    assert list(rows) == ["memory", "kept", "files"]
    for name, found in topic.figures["of_memory"].items():
        shares = [a / b for a, b in zip(rows["memory"]["rounds_ms"], rows[name]["rounds_ms"], strict=True)]
        assert found == pytest.approx(shares) and len(shares) == 3
        assert f"{sorted(shares)[1]:.2f} (" in topic.table
    assert f"| {rows['kept']['median_ms'] / 2:.1f} |" in " ".join(topic.table.split())


def test_memory_is_asked_for_every_option_and_a_line_is_drawn(config_path, monkeypatch):
    config = configs.load(str(config_path))
    changed = dict(memory.options(config, "teacher_w32"))
    assert list(changed) == ["float32", "bfloat16"]  # networks of two layers cannot be rematerialised
    monkeypatch.setattr(memory, "options", lambda config, name: [("float32", config)])
    topic = memory.run(config, stage="teacher_w32", rounds=1)
    (row,) = topic.figures["rows"]
    small, large = row["peak_bytes"]
    assert 0 < small < large and row["batch_sizes"] == (8, 16)
    by_hand = memory._row("x", (4, 8), [300_000_000, 500_000_000])  # 50 MB a face, 100 MB without any
    assert (by_hand["fixed_bytes"], by_hand["bytes_a_face"]) == (100e6, 50e6)
    assert by_hand["largest_batch"] == {16: 318, 40: 798, 80: 1598}


def test_the_hrnet_is_rematerialised_in_both_types():
    config = configs.load("configs/the300w.py")
    found = [
        (option, c.runtime.dtype, c.stage.student.model.backbone_options.rematerialise)
        for option, c in memory.options(config, "student")
    ]
    assert found == [
        ("float32", "float32", False), ("float32, rematerialised", "float32", True),
        ("bfloat16", "bfloat16", False), ("bfloat16, rematerialised", "bfloat16", True),
    ]  # fmt: skip


def test_scaling_is_tried_in_every_way_that_fits_on_the_cores():
    names = [one.name for one in scaling.arrangements(5)]
    assert names == [
        "1 x 1, pmap",
        "2 alone, at once", "1 x 2, pmap", "1 x 2, mesh", "2 x 1, pmap", "2 x 1, mesh",
        "4 alone, at once", "1 x 4, pmap", "1 x 4, mesh", "4 x 1, pmap", "4 x 1, mesh",
    ]  # fmt: skip


@SLOW
def test_a_step_is_timed_alone_and_in_processes_that_meet(config_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (TINY.parents[1], TINY.parent, TINY))))
    alone, shared = scaling.Arrangement(1, 1), scaling.Arrangement(2, 1, "mesh")
    monkeypatch.setattr(scaling, "arrangements", lambda cores: [alone, shared])
    monkeypatch.setattr(scaling, "PASSES", 1)
    topic = scaling.run(configs.load(str(config_path)), stage="teacher_w32", rounds=3)
    rows = topic.figures["rows"]
    assert [(r["processes"], r["devices"], len(r["rounds_ms"])) for r in rows] == [(1, 1, 3), (2, 1, 3)]
    batch = topic.conditions["faces a device"]
    for r in rows:
        faces_per_second = 1e3 * r["processes"] * batch / r["median_ms"]
        assert f"| {faces_per_second:.1f} | {rows[0]['median_ms'] / r['median_ms']:.2f} |" in " ".join(topic.table.split())


def test_an_evaluation_stands_beside_the_bare_network(config_path, tmp_path):
    config = configs.load(str(config_path))
    config.data.data_dir = str(tmp_path / "data")
    topic = evaluation.run(config, stage="teacher_w32", rounds=3)
    bare, whole = topic.figures["rows"]
    assert (bare["name"], whole["name"]) == ("bare", "evaluation") and topic.conditions["flip_test"] is True
    shares = [a / b for a, b in zip(bare["rounds_ms"], whole["rounds_ms"], strict=True)]
    assert topic.figures["bare_over_evaluation"] == pytest.approx(shares) and len(shares) == 3
    assert f"{sorted(shares)[1]:.2f} (" in topic.table
    config.data.test = ()
    with pytest.raises(UserError, match="config.data.test names no split"):
        evaluation.run(config, stage="", rounds=1)
