"""An experiment from config to report: every stage that is not finished, then the evaluation, then the report.

<workdir>/config.json
<workdir>/<stage>/{config.json, checkpoints/, metrics.jsonl, events/, [unreadable.json, retries.json,] finished.json}
<workdir>/{report.html, results.json}, <workdir>/faces_<stage>_<split>_<crop>_<checkpoint>.csv
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from lmkd import ablation, build, kept_configs, scoring, stages
from lmkd import config as configs
from lmkd.core.errors import UserError
from lmkd.data.reading import Provenance
from lmkd.evaluation import comparison_tables, report
from lmkd.evaluation.comparison import Comparison
from lmkd.evaluation.comparison_tables import comparison_text
from lmkd.evaluation.content import ReportContent, Result, headline
from lmkd.evaluation.faces import FacePicture
from lmkd.evaluation.files import claimed, is_claimed, whole_file
from lmkd.evaluation.tables import summary_text
from lmkd.models import cost
from lmkd.opened import of_checkpoint
from lmkd.training import checkpoints, hosts, loop
from lmkd.training.logs import read_metrics


def run(config: ConfigDict, workdir: Path, *, command: str) -> Path:
    """Runs an experiment, or what is left of it, and returns the report's path.

    Raises:
      UserError: the config, the data or an earlier run in `workdir` does not fit.
      training.loop.Interrupted: asked to stop; the state is saved.
    """
    config.stages = tuple(name for part in config.stages for name in part.split(","))  # --config.stages=teacher_w32,student
    configs.check(config)
    build.prepare_device(config)
    build.prepare_data(config)
    scoring.check_scorable(config)
    workdir.mkdir(parents=True, exist_ok=True)
    with claimed(workdir, command=command) if hosts.is_writer() else contextlib.nullcontext():
        hosts.barrier(f"{workdir}: claimed")
        if not is_claimed(workdir):
            raise UserError(
                f"--workdir={workdir} is not the same folder on every host: it must lie on a file system they share"
            )
        trained = [_train_stage(config, name, workdir / name) for name in config.stages]
        _write_text(workdir / "config.json", kept_configs.to_json(config))
        hosts.barrier(f"{workdir}: every stage is trained")
        return _evaluate(config, workdir, trained, command)


def _train_stage(config: ConfigDict, name: str, folder: Path) -> dict[str, Any]:
    """Trains a stage unless it is finished, and returns what `finished.json` keeps of it for the report."""
    finished = folder / "finished.json"
    teachers = stages.load_teachers(config, name, folder.parent)
    _refuse_changes(config, name, folder, teachers)
    if finished.is_file():
        print(f"stage {name}: finished, skipped ({folder})")
        return json.loads(finished.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(folder / "config.json", kept_configs.to_json(config))
    if hosts.is_writer():
        (folder.parent / "results.json").unlink(missing_ok=True)  # what it says is not of the network that comes now
    begun = time.monotonic()
    built, slowed = _trained(config, name, folder, teachers)
    cost_rows, options = cost.count(built.net, built.image_px), built.arguments["options"]
    jax.clear_caches()  # the programs of an ablation's dozens of stages would pile up in memory
    summary = {
        "name": name,
        "steps": options.total_steps,
        "last_session_seconds": round(time.monotonic() - begun, 1),
        "unreadable": built.unreadable.keys(),
        "cost": cost.table(cost_rows),
        "parameters": cost.total(cost_rows).parameters,
        "macs": cost.total(cost_rows).macs,
        "provenance": [p._asdict() for p in built.provenance],
        "teachers": stages.identities(teachers),
        "notices": [*built.watch.notices(), *slowed],
    }
    _write_text(finished, json.dumps(summary, indent=1))
    hosts.barrier(f"{folder}: the stage is finished")
    return summary


def _trained(config: ConfigDict, name: str, folder: Path, teachers: stages.Sources) -> tuple[stages.Stage, list[str]]:
    """Trains a stage to its end; returns it, and what is to be told of losses that were not finite on the way."""
    train, kept, unread = config.stage[name].train, folder / "retries.json", folder / "unreadable.json"
    retried = _kept_list(kept)
    while True:
        built = stages.stage(
            _slowed(config, name, train.retry_rate ** len(retried)), name, folder, scoring.validator(config), teachers
        )
        built.unreadable.recall(_kept_list(unread))
        options = built.arguments["options"]
        print(f"stage {name}: {scoring.trained_on(built.provenance)}\n{cost.table(cost.count(built.net, built.image_px))}")
        devices = f"{jax.device_count()} {jax.default_backend()} device(s)"
        devices += f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        print(f"{options.total_steps} steps of {options.batch_size} faces on {devices}")
        try:
            loop.run(**built.arguments)
            return built, retried
        except loop.Diverged as error:
            if len(retried) >= train.retries:
                raise
            factor = train.retry_rate ** (len(retried) + 1)
            retried.append(f"at step {error.step} the loss was not finite: from the checkpoint before, rates times {factor:g}")
            _write_text(kept, json.dumps(retried))
            print(f"stage {name}: {error}\nstage {name}: {retried[-1]} ({len(retried)} of {train.retries} times)")
        finally:
            built.arguments["iterator"].close()
            _keep_unreadable(unread, built.unreadable.keys())


def _kept_list(path: Path) -> list[str]:
    """What an earlier session kept; nothing where there was none."""
    return json.loads(path.read_text()) if path.is_file() else []


def _keep_unreadable(path: Path, keys: list[str]) -> None:
    """Keeps for a later session what this one could not read; why it ends is more important than whether that is written."""
    if keys:
        try:
            _write_text(path, json.dumps(keys))
        except OSError as error:
            print(f"{path} cannot be written ({error}): a later session will not know of {len(keys)} unreadable records")


def _slowed(config: ConfigDict, name: str, factor: float) -> ConfigDict:
    """The config with the stage's learning rates, the critics' too, times a factor."""
    slowed = config.copy_and_resolve_references()
    for part in (slowed.stage[name].optimizer, slowed.stage[name].critics):
        part.learning_rate *= factor
    return slowed


def _refuse_changes(config: ConfigDict, name: str, folder: Path, teachers: stages.Sources) -> None:
    before = folder / "config.json"
    if not before.is_file():
        return
    kept = kept_configs.completed(kept_configs.from_json(before.read_text()))
    changes = kept_configs.changed_keys(kept, config, name, finished=(folder / "finished.json").is_file())
    changes += stages.changed_teachers(folder, teachers)
    if changes:
        raise UserError(
            f"{folder} holds stage {name!r} of another config; what changed:\n"
            + "\n".join(f"  - {c}" for c in changes)
            + "\nTake another --workdir, or the earlier values; or remove that folder to train anew."
        )


def _evaluate(config: ConfigDict, workdir: Path, trained: list[dict[str, Any]], command: str) -> Path:
    path, results_path = workdir / "report.html", workdir / "results.json"
    folders = {t["name"]: _checkpoint_folders(workdir / t["name"]) for t in trained}
    mark = _fingerprint(config, folders)
    if results_path.is_file() and path.is_file():
        kept = json.loads(results_path.read_text())
        if kept["fingerprint"] == mark:
            print(f"evaluation: nothing changed, kept\n{kept['summary']}")
            return path
    results, pictures, notices = [], [], []
    by_stage: dict[str, list[Result]] = {}
    # The last stage is what the experiment is for: it makes the headline.
    for stage in reversed([t for t in trained if config.stage[t["name"]].scored]):
        text, unreadable = _trained_text(stage), stage["unreadable"]
        if unreadable:
            notices.append(f"stage {stage['name']}: {len(unreadable)} unreadable training records were replaced: {unreadable}")
        notices += [f"stage {stage['name']}: {text}" for text in stage.get("notices", [])]
        for label, step_folder in folders[stage["name"]]:
            scored = _score_checkpoint(config, stage["name"], label, step_folder, text, workdir, pictures=stage is trained[-1])
            results += [s.result for s in scored]
            by_stage.setdefault(stage["name"], []).extend(s.result for s in scored)
            notices += scoring.notices(scored)
            pictures += [(s.result, s.pictures) for s in scored if s.pictures]
    of_last_stage = [r for r in results if r.name.startswith(f"{trained[-1]['name']} on ")]
    first = headline(of_last_stage)
    shown: Sequence[FacePicture] = next((p for r, p in pictures if r is first), [])
    comparisons = ablation.compare(config, workdir, trained, by_stage)
    for n, comparison in enumerate(comparisons):
        _write_comparison(workdir / (f"ablation_{n}" if n else "ablation"), comparison)
    summary = summary_text(results) if results else "no test split was scored"
    summary = "\n\n".join([summary, *map(comparison_text, comparisons)])
    used = {p.text(): p for reference in config.data.test for p in build.records(config, (reference,)).provenance}
    content = ReportContent(
        title=f"lmkd: {workdir.name}",
        command=command,
        results=_shown(config, results),
        comparisons=comparisons,
        history=read_metrics(workdir / trained[-1]["name"] / "metrics.jsonl"),
        faces=shown if config.runtime.faces_in_report else None,
        cost="\n\n".join(f"stage {t['name']}\n{t['cost']}" for t in trained),
        config_json=kept_configs.to_json(config),
        versions=build.versions(),
        datasets=scoring.datasets((*_provenances(trained[-1]), *used.values())),
        notices=list(dict.fromkeys(notices)),
        quoted=config.evaluation.quoted,
    )
    if hosts.is_writer():
        report.write_report(path, content)
    _write_text(
        results_path,
        json.dumps({"fingerprint": mark, "summary": summary, "results": scoring.numbers(results)}, indent=1),
    )
    print(summary)
    return path


def _score_checkpoint(config, stage: str, label: str, folder: Path, text: str, workdir: Path, *, pictures: bool):
    opened = of_checkpoint(build.load(folder), flip_test=config.evaluation.flip_test)
    scored: list[scoring.Scored] = []
    for reference in config.data.test:
        for crop in config.data.test_crops:
            found = scoring.score_split(
                opened,
                config,
                reference,
                crop=crop,
                checkpoint=label,
                provenance=text,
                pictures=pictures and config.runtime.faces_in_report and not scored,
            )
            if hosts.is_writer():
                scoring.write_faces(workdir, f"{stage}_{reference}_{crop}_{label}", found.result)
            scored.append(found._replace(result=found.result._replace(name=f"{stage} on {reference}")))
    return scored


def _shown(config: ConfigDict, results: Sequence[Result]) -> list[Result]:
    """The results that the report's own tables show: of an ablation the first seed's alone, the comparison has them all."""

    def first_seed(result: Result) -> bool:
        stage = result.name.split(" on ")[0]
        row = config.stage[stage].row
        return not row or next(s for s in config.stages if config.stage[s].row == row) == stage

    return [r for r in results if first_seed(r)] if config.ablation.baseline else list(results)


def _write_comparison(path: Path, comparison: Comparison) -> None:
    _write_text(path.with_suffix(".json"), json.dumps(comparison_tables.to_json(comparison), indent=1))
    _write_text(path.with_suffix(".md"), comparison_tables.comparison_markdown(comparison))


def _checkpoint_folders(folder: Path) -> list[tuple[str, Path]]:
    """The stage's ("last", folder) and, where a validation chose another one, ("best", folder)."""
    last, best = (checkpoints.find_step(folder, which) for which in ("latest", "best"))
    return [("last", last)] if best == last else [("best", best), ("last", last)]


def _fingerprint(config: ConfigDict, folders: dict[str, list[tuple[str, Path]]]) -> str:
    steps = {name: [(label, f.name) for label, f in found] for name, found in folders.items()}
    data = [p._asdict() for reference in config.data.test for p in build.records(config, (reference,)).provenance]
    return hashlib.sha256(json.dumps([kept_configs.to_json(config), steps, data]).encode()).hexdigest()[:16]


def _provenances(stage: dict[str, Any]) -> tuple[Provenance, ...]:
    return tuple(Provenance(**p) for p in stage["provenance"])


def _trained_text(stage: dict[str, Any]) -> str:
    return f"trained on {scoring.trained_on(_provenances(stage))}"


def _write_text(path: Path, text: str) -> None:
    if not hosts.is_writer():
        return
    with whole_file(path) as file:
        file.write(text)
