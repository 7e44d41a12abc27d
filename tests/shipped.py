"""What lies in configs/: the experiments, and what they are made of."""

from pathlib import Path

from lmkd.configs import common

PARTS = frozenset({"__init__", "common", "method", "systems", "variants"})  # what experiments are made of
MODULES = frozenset(path.stem for path in Path(common.__file__).parent.glob("*.py"))
EXPERIMENTS = sorted(MODULES - PARTS)
