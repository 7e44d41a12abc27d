"""The ablation through its door: a shared teacher, rows with seeds, the comparison in the report and as files."""

import json

import pytest
from doors import TINY, door
from ml_collections import ConfigDict

from lmkd import ablation

STAGES = (
    "teacher_w32",
    "plain_s0",
    "plain_s1",
    "everything_one_teacher_s0",
    "everything_one_teacher_s1",
)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """(workdir, what the process printed) of two rows, with networks of two layers."""
    folder = tmp_path_factory.mktemp("ablation")
    done = door(
        "main", f"--config={TINY / 'ablation.py'}", f"--config.stages={STAGES}", f"--data_dir={folder}", "--no_faces",
        "--config.stage.everything_one_teacher_s1.train.unlabelled=('synthetic_faces/tiny_68:validation',)",
        "--config.stage.everything_one_teacher_s1.terms.adversarial_w32.options.all_points=True",
        "--config.ablation.robustness_faces=2", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "ablation", done.stdout


def test_each_row_has_its_seeds_costs_and_an_interval(compared):
    workdir, _ = compared
    found = json.loads((workdir / "ablation.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert rows.keys() == {"plain", "everything, one teacher"}
    for row in rows.values():
        assert row["seeds"] == [0, 1] and row["parameters"] > 0 and row["macs"] > 0 and row["steps"] == 6
        assert row["robustness"] > 0 and row["attacked"]
    shares = rows["everything, one teacher"]["shares"]
    assert shares.keys() >= {"channel", "adversarial_w32"} and sum(shares.values()) == pytest.approx(1.0)


def test_the_table_stands_in_the_terminal_in_markdown_and_in_the_report(compared):
    workdir, printed = compared
    table = (workdir / "ablation.md").read_text()
    assert "| plain" in table and "everything, one teacher" in printed
    report = (workdir / "report.html").read_text()
    assert '<section id="comparison">' in report and "everything, one teacher" in report
    assert "data:image/jpeg" not in report


def test_students_keep_the_checksums_of_the_teachers_they_were_taught_by(compared):
    workdir, _ = compared
    kept = [json.loads((workdir / s / "finished.json").read_text())["teachers"] for s in STAGES[1:]]
    assert kept[0] == {} and kept[2] == kept[3] and kept[2].keys() == {"w32"} and kept[2]["w32"]["checksum"]


def test_what_was_learnt_without_labels_is_told(compared):
    workdir, printed = compared
    kept = [json.loads((workdir / s / "finished.json").read_text())["provenance"] for s in STAGES[3:]]
    assert [[(p["split"], p["labelled"]) for p in of] for of in kept] == [
        [("train", True)], [("train", True), ("validation", False)]
    ]  # fmt: skip
    assert "faces without their labels" in printed


def test_a_student_is_used_without_its_teachers(compared, tmp_path):
    workdir, _ = compared
    (workdir / "teacher_w32").rename(tmp_path / "teacher_w32")
    try:
        done = door("evaluate", f"--model={workdir}", f"--data_dir={workdir.parents[1]}", cwd=tmp_path)
        assert done.returncode == 0 and "16" in done.stdout, done.stderr
    finally:
        (tmp_path / "teacher_w32").rename(workdir / "teacher_w32")


def test_a_row_without_its_own_baseline_is_left_out_in_words(capsys):
    rows = {"plain 1m": "", "taught 1m": "plain 1m", "taught 2m": "plain 2m", "longer 2m": "taught 2m"}
    stages = {row: {"compared_with": other} for row, other in rows.items()}
    config = ConfigDict({"stage": stages, "ablation": {"baseline": "plain 1m"}})
    by_row = {row: [{"name": row}] for row in rows}
    ablation._leave_out_orphans(config, by_row)
    assert list(by_row) == ["plain 1m", "taught 1m"]
    assert "'taught 2m' is left out" in capsys.readouterr().out
    config.ablation.baseline = "taught 2m"  # measured on nothing itself, whatever it names
    by_row = {row: [{"name": row}] for row in ("taught 2m", "longer 2m")}
    ablation._leave_out_orphans(config, by_row)
    assert list(by_row) == ["taught 2m", "longer 2m"]
    assert ablation._compared_with(config, "taught 2m", by_row["taught 2m"]) == ""


def test_one_stage_is_chosen_by_its_name_and_teachers_that_are_missing_are_told(compared, tmp_path):
    workdir, _ = compared
    arguments = (f"--config={TINY / 'ablation.py'}", f"--data_dir={workdir.parents[1]}", "--no_faces")
    done = door("main", *arguments, "--config.stages=everything_s0", f"--workdir={tmp_path / 'new'}", cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "stage teacher_w32 is not finished" in done.stderr and "stage teacher_v2p is not finished" in done.stderr
    arguments = (*arguments, "--config.ablation.robustness_faces=0", f"--workdir={workdir}")
    done = door("main", *arguments, "--config.stages=plain_s0", cwd=tmp_path)
    assert done.returncode == 0 and "stage plain_s0: finished, skipped" in done.stdout, done.stderr
