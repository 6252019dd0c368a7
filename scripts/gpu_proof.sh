#!/usr/bin/env bash
# All that only a GPU can show, within the minutes there are: scripts/gpu_proof.py says what and how.
#
#   scripts/gpu_proof.sh [--minutes 9] [--resume TAR] [FOLDER]
cd "$(dirname "$0")/.." || exit
exec "${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}" scripts/gpu_proof.py "$@"
