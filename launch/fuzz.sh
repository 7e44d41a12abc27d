#!/usr/bin/env bash
# Fuzzes every reader of foreign bytes (annotations, pictures, weights, cards, configs, checkpoints) on one core.
#
#   bash launch/fuzz.sh [CASES [TARGET ...]]        a million cases in all by default, hours on one core
#
# Prints a line a target: cases, seconds, what was found; ends with 1 where anything was. Decoders' chatter goes to
# LMKD_FUZZ_LOG (fuzz_stderr.log). LMKD_PYTHON is the Python with lmkd[dev] (.venv/bin/python). Targets: tests/fuzz/targets.py.
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
export JAX_PLATFORMS=cpu OMP_NUM_THREADS=1 PYTHONPATH="$root/tests${PYTHONPATH:+:$PYTHONPATH}"
exec nice -n 10 "${LMKD_PYTHON:-.venv/bin/python}" -m fuzz.long_run "$@" 2>"${LMKD_FUZZ_LOG:-fuzz_stderr.log}"
