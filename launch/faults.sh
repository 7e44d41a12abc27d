#!/usr/bin/env bash
# Breaks runs on purpose, many times, and soaks one: the whole campaign of docs/reliability.md. Takes half an hour on
# two cores.
#
#   bash launch/faults.sh [OUTPUT.md] [--kills=20] [--soak_steps=2000]
#
# OUTPUT.md is runs/faults.md by default. Paths are relative to the repository's root.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"
case ${1:-} in --help | -h) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit ;; esac

lmkd_setup "dev"
case ${1:-} in "" | --*) set -- runs/faults.md "$@" ;; esac
exec "$LMKD_VENV/bin/python" tests/campaign.py "$@"
