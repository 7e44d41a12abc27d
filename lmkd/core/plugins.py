"""Lookup of plug-ins by name. A module is the plug-in: no registry, no import for effect.

`resolve("lmkd.models", "hrnet.HRNet")` imports `lmkd.models.hrnet` and returns its `HRNet`. A wrong name answers with
the valid ones and the nearest.
"""

import importlib
import importlib.util
import inspect
import pkgutil
from typing import Any

from lmkd.core.errors import unknown


def resolve(package: str, name: str, *, kind: str = "plug-in", where: str = "") -> Any:
    """Returns the public symbol `name` ("module.symbol", or a dotted path that starts elsewhere) of `package`.

    Raises:
      UserError: no such module or symbol; the message lists the valid names.
    """
    module_name, _, symbol = str(name).rpartition(".")
    if not module_name:
        raise unknown(kind, name, valid_names(package), where)
    for full in (f"{package}.{module_name}", module_name):
        if _exists(full):
            found = getattr(importlib.import_module(full), symbol, None)
            if found is not None and not symbol.startswith("_"):
                return found
    raise unknown(kind, name, valid_names(package), where)


def valid_names(package: str) -> list[str]:
    """Lists every "module.symbol" that the modules of `package` define themselves, public ones only."""
    names = []
    for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
        module = importlib.import_module(f"{package}.{info.name}")
        for symbol, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if own and callable(value) and not symbol.startswith("_"):
                names.append(f"{info.name}.{symbol}")
    return sorted(names)


def check_options(target: Any, options: dict[str, Any], *, kind: str, where: str) -> list[str]:
    """Returns a message for each option that the callable `target` does not take by name."""
    parameters = inspect.signature(target).parameters
    allowed = [n for n in parameters if n not in ("self", "parent", "name")]
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return []
    return [str(unknown(f"option of {kind}", key, allowed, f"{where}.{key}")) for key in options if key not in allowed]


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
