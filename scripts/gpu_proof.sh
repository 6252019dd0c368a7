#!/usr/bin/env bash
# Everything that only a GPU can show, in one go: the tests on CUDA, step times, training speed.
#
#   scripts/gpu_proof.sh [FOLDER]      FOLDER (default: results/gpu) receives CSV files, logs and gpu_proof.tar
#
# Steps that are done (FOLDER/logs/<step>.done) are not done again, so a run that was cut off goes on.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=${1:-results/gpu}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
mkdir -p "$folder/logs"
failed=0

step() { # step NAME COMMAND...
    local name=$1; shift
    if [ -e "$folder/logs/$name.done" ]; then echo "== $name: done before"; return; fi
    echo "== $name: $*"
    if "$@" >"$folder/logs/$name.log" 2>&1; then
        touch "$folder/logs/$name.done"
    else
        failed=1
        echo "   FAILED; the end of $folder/logs/$name.log:"
        tail -n 15 "$folder/logs/$name.log"
    fi
}

step machine "$python" -c 'import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_name())'
step tests env TRITON_INTERPRET=0 "$python" -m pytest -m gpu tests
step throughput_image "$python" -m novobench bench throughput image --set runtime.precision=bf16-mixed \
    --output "$folder/throughput_image.csv"
step throughput_image_256 "$python" -m novobench bench throughput image \
    --set runtime.precision=bf16-mixed batch.micro=256 --output "$folder/throughput_image_256.csv"

tar -cf gpu_proof.tar -C "$folder" . && mv gpu_proof.tar "$folder/"
echo
tail -n 3 "$folder"/logs/machine.log "$folder"/logs/tests.log "$folder"/logs/throughput*.log
exit $failed
