#!/usr/bin/env bash
# Everything that only a GPU can show, in one go: the tests on CUDA, step times, training speed.
#
#   scripts/gpu_proof.sh [FOLDER]      FOLDER (default: results/gpu) receives CSV files, logs and gpu_proof.tar
#
# Steps that are done (FOLDER/logs/<step>.done) are not done again, so a run that was cut off goes on. With APEX=<checkout
# of github.com/NVIDIA/apex> its FusedNovoGrad is built into build/apex and timed too.
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
step tests_novograd env TRITON_INTERPRET=0 "$python" -m pytest -m gpu tests/gpu/test_novograd.py
step tests_others env TRITON_INTERPRET=0 "$python" -m pytest -m gpu tests/gpu --ignore tests/gpu/test_novograd.py
if [ -n "${APEX:-}" ]; then
    before=$failed
    step apex env CUDA_HOME="${CUDA_HOME:-/usr/local/cuda}" "$python" scripts/build_apex.py "$APEX" build/apex
    failed=$before # it is timed if it builds
    export PYTHONPATH="$PWD/build/apex${PYTHONPATH:+:$PYTHONPATH}"
else
    echo "== apex: left out, APEX names no checkout of it"
fi
step bench_optimizer "$python" -m novobench bench optimizer --device cuda --rounds 50 --output "$folder/bench_optimizer.csv"
step bench_clipped "$python" -m novobench bench optimizer --device cuda --rounds 50 --unscale-and-clip \
    --only NovoGrad "SGD(fused)" "Adam(fused)" --output "$folder/bench_optimizer_clipped.csv"
PATH=$PATH:/usr/local/cuda/bin
if command -v compute-sanitizer >/dev/null; then
    step sanitizer env TRITON_INTERPRET=0 PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 9 \
        "$python" -m pytest -x -m gpu tests/gpu/test_novograd.py -k "papers_algorithm and (default or single) or odd_layouts"
else
    echo "== sanitizer: left out, compute-sanitizer is not on the PATH"
fi
step throughput_image "$python" -m novobench bench throughput image --set runtime.precision=bf16-mixed \
    --output "$folder/throughput_image.csv"
step throughput_image_256 "$python" -m novobench bench throughput image \
    --set runtime.precision=bf16-mixed batch.micro=256 --output "$folder/throughput_image_256.csv"
for attention in fused math; do
    step throughput_language_$attention "$python" -m novobench bench throughput language --attention $attention \
        --set runtime.precision=bf16-mixed batch.micro=16 --output "$folder/throughput_language_$attention.csv"
done
for micro in 32 64; do
    step throughput_speech_$micro "$python" -m novobench bench throughput speech \
        --set runtime.precision=bf16-mixed batch.micro=$micro --output "$folder/throughput_speech_$micro.csv"
done
step throughput_translation "$python" -m novobench bench throughput translation \
    --set runtime.precision=bf16-mixed --output "$folder/throughput_translation.csv"

table() { # table DATA EXPERIMENT...
    if [ -d "${NOVOBENCH_DATA:-data}/$1" ]; then
        step "$2" "$python" -m novobench run "${@:2}" --scale gpu
    else
        echo "== ${*:2}: left out, there is no $1 under \$NOVOBENCH_DATA"
    fi
}
table wikitext-2 table7 figure2
table multi30k table6
table AN4 table4

tar -cf gpu_proof.tar --exclude gpu_proof.tar -C "$folder" . && mv gpu_proof.tar "$folder/"
echo
tail -n 3 "$folder"/logs/machine.log "$folder"/logs/tests*.log "$folder"/logs/throughput*.log
grep -hE "AdamW\(fused\)|NovoGrad |apex|interleaved" "$folder"/logs/bench_*.log
exit $failed
