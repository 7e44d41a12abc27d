#!/usr/bin/env bash
# Installs lmkd[dev] into .venv, then runs what CI runs: ruff, mypy, pytest. Run it from anywhere.
#
#   bash launch/test.sh [flags and paths of pytest]
#
# LMKD_REAL_DATA=DIR adds the tests on real faces; LMKD_SLOW_TESTS=1 adds the full installation of the wheel, the notebooks, ...;
# LMKD_TEST_PROCESSES=N runs pytest in N processes (2).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

lmkd_setup dev
export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
bin=$LMKD_VENV/bin

lmkd_say "ruff check" && "$bin/ruff" check .
lmkd_say "ruff format" && "$bin/ruff" format --check .
lmkd_say "mypy" && "$bin/mypy"
lmkd_say "pytest"
# In the order of names: the longest file (ablation_test.py) first. xdist's own order leaves it, of five tests, to the end.
exec "$bin/python" -m pytest -n "${LMKD_TEST_PROCESSES:-2}" --dist=loadfile --no-loadscope-reorder "$@"
