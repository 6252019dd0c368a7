"""The script for a GPU: its steps are commands that exist, a step that is done is left alone, a failure stops no other.

The commands are taken down by a stand-in for Python instead of being run.
"""

import os
import subprocess

import pytest

from novobench.cli import _parser
from novobench.config import ROOT

STAND_IN = """#!/bin/sh
{ printf '%s\\t' "$TRITON_INTERPRET" "$@"; echo; } >>"$CALLS"
for word; do [ "$word" != "$FAILING" ] || exit 1; done
"""


@pytest.fixture
def prove(tmp_path):
    """Run the script; returns its exit code and the words of each call (the first is TRITON_INTERPRET)."""
    python, sanitizer = tmp_path / "python", tmp_path / "bin" / "compute-sanitizer"
    sanitizer.parent.mkdir()
    for path in (python, sanitizer):
        path.write_text(STAND_IN)
        path.chmod(0o755)
    for name in ("wikitext-2", "multi30k"):
        (tmp_path / "data" / name).mkdir(parents=True)

    def run(**variables: str) -> tuple[int, list[list[str]]]:
        calls = tmp_path / "calls"
        calls.write_text("")
        environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
        environment |= {
            "PYTHON": str(python), "CALLS": str(calls), "FAILING": "", "NOVOBENCH_DATA": str(tmp_path / "data"),
            "PATH": f"{sanitizer.parent}:{os.environ['PATH']}", **variables,
        }  # fmt: skip
        words = [str(ROOT / "scripts" / "gpu_proof.sh"), str(tmp_path / "out")]
        done = subprocess.run(words, env=environment, capture_output=True, cwd="/")
        return done.returncode, [line.split("\t")[:-1] for line in calls.read_text().splitlines()]

    return run


def test_every_step_is_a_command_that_exists(prove, tmp_path):
    code, calls = prove(APEX="somewhere")
    assert code == 0
    novobench = [call[3:] for call in calls if call[1:3] == ["-m", "novobench"]]
    for words in novobench:
        _parser().parse_args(words)  # ends the process if a word is wrong
    asked = [" ".join(words) for words in novobench]
    assert any("bench optimizer --device cuda" in words and "--unscale" not in words for words in asked)
    assert any("bench optimizer --device cuda" in words and "--unscale-and-clip" in words for words in asked)
    assert any("bench throughput image --set runtime.precision=bf16-mixed" in words for words in asked)
    tests = [call for call in calls if "pytest" in call]
    assert len(tests) == 3  # the third under compute-sanitizer
    assert all(call[0] == "0" and ROOT.joinpath(word).exists() for call in tests for word in call if "tests/" in word)
    assert [call for call in calls if "scripts/build_apex.py" in call] == [
        ["", "scripts/build_apex.py", "somewhere", "build/apex"]
    ]
    files = subprocess.run(["tar", "-tf", tmp_path / "out" / "gpu_proof.tar"], capture_output=True, text=True).stdout
    assert "./logs/bench_optimizer.log" in files


def test_a_second_run_does_what_failed_and_nothing_else(prove):
    code, calls = prove(FAILING="--unscale-and-clip")
    assert code == 1
    assert any("table7" in call for call in calls)  # the steps after it are done all the same
    code, again = prove()
    assert code == 0
    assert [call for call in calls if "--unscale-and-clip" in call] == again
    assert prove() == (0, [])


def test_apex_may_fail_to_build(prove):
    code, calls = prove(APEX="somewhere", FAILING="scripts/build_apex.py")
    assert code == 0
    assert any("--unscale-and-clip" in call for call in calls)
