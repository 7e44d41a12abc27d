#!/usr/bin/env bash
# Installs lmkd into .venv, then draws synthetic faces, trains a small network on them, scores it and writes a report.
# Run it from anywhere; a second run reuses everything that is there.
#
#   bash launch/quickstart.sh [flags of lmkd.main, such as --workdir=DIR; paths are relative to the repository's root]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=setup.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/setup.sh"

lmkd_setup ""
exec "$LMKD_VENV/bin/python" -m lmkd.main --config=configs/quickstart.py "$@"
