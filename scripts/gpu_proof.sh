#!/usr/bin/env bash
# Run the GPU-only checks and measurements within a time budget. scripts/gpu_proof/__init__.py has the details.
#
#   scripts/gpu_proof.sh [--minutes 9] [--resume TAR] [FOLDER]
here=$(cd "$(dirname "$0")" && pwd) || exit
export PYTHONPATH=$here${PYTHONPATH:+:$PYTHONPATH}
exec "${PYTHON:-$([ -x "$here/../.venv/bin/python" ] && echo "$here/../.venv/bin/python" || echo python3)}" -m gpu_proof "$@"
