"""All that only a GPU can show, within the minutes there are: tests on CUDA, step times, training speed, tables.

    scripts/gpu_proof.sh [--minutes 9] [--resume TAR] [FOLDER]

The steps stand in order of worth. A step starts if its forecast fits into what is left of the minutes, and is ended at
its limit; a failure stops no other step. What time is left then goes to a table that has to be cut off: its finished
cells count. What does not fit is named and left for the next time.

Results go where novobench's commands put them: results/gpu and runs/gpu. After each step FOLDER (default: results/gpu)
receives gpu_proof.tar, at most 16 MiB: both folders without checkpoints, the logs cut short, and which steps are done.
With `--resume` another machine starts from it: finished steps stay finished, and so do finished cells.

It needs no network and no .git (NOVOBENCH_CODE then names the commit, as novobench/training/environment.py says).
`--wheels` names a folder of wheels with the packages that are missing here. Exit code 0: nothing failed; 1: a step
failed or hung; 2: it cannot run here.
"""
