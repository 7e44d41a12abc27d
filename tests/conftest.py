"""Two CPU devices, no silent rank promotion, a compilation cache between runs; and the real faces, if there are any."""

import os
from pathlib import Path

from doors import QUICK_COMPILATION

# Before jax starts its back end: what runs on one device must also run on two.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAGS = (os.environ.get("XLA_FLAGS", ""), QUICK_COMPILATION, "--xla_force_host_platform_device_count=2")
os.environ["XLA_FLAGS"] = " ".join(_FLAGS).strip()
# Processes that tests start inherit the cache; nothing else of the settings below.
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmkd" / "jax_tests"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("TFDS_DISABLE_PROGRESS_BAR", "1")
os.environ.setdefault("MPLBACKEND", "agg")

import absl.logging  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
absl.logging.set_verbosity(absl.logging.ERROR)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real faces; skips where there is none."""
    folder = os.environ.get("LMKD_REAL_DATA")
    if not folder:
        pytest.skip("LMKD_REAL_DATA is not set: no real faces here")
    if not Path(folder).is_dir():
        pytest.skip(f"LMKD_REAL_DATA={folder} is no folder")
    return Path(folder)
