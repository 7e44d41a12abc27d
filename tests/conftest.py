"""Two CPU devices, no silent rank promotion, a compilation cache between runs; and the real faces, if there are any."""

import os
from pathlib import Path

import pytest


def pytest_configure(config):
    """Settles everything before jax starts its back end; xdist's controller, which runs no test, imports nothing heavy."""
    if not getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        _settle()


def _settle():
    from doors import QUICK_COMPILATION

    # What runs on one device must also run on two.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = (os.environ.get("XLA_FLAGS", ""), QUICK_COMPILATION, "--xla_force_host_platform_device_count=2")
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()
    # Processes that tests start inherit the cache, and keep their bytecode; nothing else of the settings below.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmkd" / "jax_tests"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("TFDS_DISABLE_PROGRESS_BAR", "1")
    os.environ.setdefault("MPLBACKEND", "agg")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

    import absl.logging
    import jax

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
