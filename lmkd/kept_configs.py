"""Configs as runs and checkpoints keep them: JSON there and back, what came after an old one, what has changed since."""

import importlib
import json
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from lmkd.core.errors import UserError

# What may change between the start of a stage and its continuation: it has no influence on the trained parameters.
FREE_TO_CHANGE = (
    "evaluation.", "runtime.compilation_cache", "runtime.parallel", "runtime.faces_in_report", "runtime.stall_seconds",
    "train.on_save_error", "train.retries", "train.retry_rate", "train.log_every", "train.save_every", "train.validate_every",
    "train.shares_every", "data.data_dir", "data.manual_dirs.", "data.partial", "data.threads", "data.keep_decoded_mb",
    "data.validation", "data.test",
    "model.backbone_options.rematerialise", "stages", "expected", "ablation.", "row", "compared_with",
)  # fmt: skip
# Of these, what the best checkpoint is chosen by: numbers of two protocols are no choice. Kept until it is finished.
CHOOSES_BEST = ("data.validation", "evaluation.normaliser")


def to_json(config: ConfigDict) -> str:
    """Returns the config as JSON, keys sorted."""
    return json.dumps(config.to_dict(), indent=1, sort_keys=True, default=str)


def from_json(text: str) -> ConfigDict:
    """Reads `to_json`'s text; lists come back as the tuples that they were. Raises UserError where it is none."""
    try:
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise ValueError("no JSON object")
        return ConfigDict(_tuples(raw))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"a kept config cannot be read: {error}") from error


def completed(config: ConfigDict) -> ConfigDict:
    """Returns a kept config with the keys that came after it, at their defaults, so that older runs stay readable."""
    common = importlib.import_module("lmkd.configs.common")
    try:
        whole = _filled(config.to_dict(), common.get_config().to_dict() | {"stage": {}})
        whole["stage"] = {name: _filled(part, common.stage().to_dict()) for name, part in whole["stage"].items()}
        for part in whole["stage"].values():
            part["terms"] = {name: _filled(term, common.term("").to_dict()) for name, term in part["terms"].items()}
        return ConfigDict(whole)
    except (TypeError, AttributeError, ValueError, KeyError) as error:
        raise UserError(f"a kept config is not one of lmkd's: {type(error).__name__}: {error}") from error


def changed_keys(before: ConfigDict, now: ConfigDict, stage: str, *, finished: bool) -> list[str]:
    """Lists the keys that shape `stage`, or what is yet to be chosen of it, and differ: "data.crop_scale: 1.25 -> 1.1"."""
    flat_before, flat_now = (dict(_flat(json.loads(to_json(c)))) for c in (before, now))
    changes = []
    for key in sorted(set(flat_before) | set(flat_now)):
        if key.startswith("stage.") and not key.startswith(f"stage.{stage}."):
            continue
        free = key.removeprefix(f"stage.{stage}.")
        may_change = free.startswith(FREE_TO_CHANGE) and (finished or free not in CHOOSES_BEST)
        if may_change or flat_before.get(key) == flat_now.get(key):
            continue
        changes.append(f"{key}: {flat_before.get(key, 'absent')} -> {flat_now.get(key, 'absent')}")
    return changes


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _filled(kept: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Adds defaults' missing keys, at every depth that both have; an empty dict of options stays as it is."""
    both = {key: _filled(kept[key], value) for key, value in defaults.items() if isinstance(value, dict) and key in kept}
    open_dicts = ("backbone_options", "head_options", "terms", "options", "teachers")
    return {**defaults, **kept, **{key: value for key, value in both.items() if key not in open_dicts}}


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}{key}.")
    else:
        yield prefix.removesuffix("."), value
