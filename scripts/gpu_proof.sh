#!/usr/bin/env bash
# What only a GPU can show, within the minutes there are: scripts/gpu_proof/ says what and how.
#
#   scripts/gpu_proof.sh [--minutes 9] [--resume TAR] [FOLDER]
here=$(cd "$(dirname "$0")" && pwd) || exit
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-$([ -x "$here/../.venv/bin/python" ] && echo "$here/../.venv/bin/python" || echo python3)}" -m gpu_proof "$@"
