"""Run the GPU-only checks and measurements within a time budget: CUDA tests, step times, training speed, tables.

    scripts/gpu_proof.sh [--minutes 9] [--resume TAR] [FOLDER]

Steps run in order of value. A step starts if its forecast fits into the remaining time, and is ended at its limit. A
failure does not stop the other steps. Time that is left goes to a table that must be cut short, because its finished
cells count. Steps that do not fit are named and wait for the next call.

Results go where novobench's commands put them: results/gpu and runs/gpu. After each step, FOLDER (default: results/gpu)
receives gpu_proof.tar of at most 16 MiB: both folders without checkpoints, shortened logs, the list of finished steps.
With `--resume`, another machine continues from it: finished steps and finished cells stay finished. Tables have seed 0,
as in the tars that exist.

It needs neither a network nor .git (NOVOBENCH_CODE then names the commit; see novobench/training/environment.py).
`--wheels` names a folder of wheels for packages that this machine lacks. `--summary` only writes gpu_proof.md again.
Exit code 0: nothing failed; 1: a step failed or hung; 2: the script cannot run here.
"""
