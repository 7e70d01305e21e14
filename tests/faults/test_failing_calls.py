"""Whatever call to the disk fails, the same command ends with the same bits afterwards."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cmkg.runtime.run_records import read_result
from tests.hands.runs import expect_same_training

HERE = Path(__file__).parent
ERRORS = (errno.EIO, errno.ENOSPC, errno.EPERM)
KINDS = "wsro"  # write, fsync, rename, open for writing
needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None or not sys.platform.startswith("linux"), reason="needs cc and Linux"
)


def sweep(folder, jobs):
    """How each job ended: tests.faults.sweep."""
    shim = folder / "failing_calls.so"
    source = str(HERE / "failing_calls.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", shim, source, "-ldl"], check=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "tests.faults.sweep", str(folder), f"{folder}/jobs.json"]
    environment = os.environ | {
        "LD_PRELOAD": str(shim),
        "OMP_NUM_THREADS": "1",
        "CMKG_CHECKPOINT_SECONDS": "0",
    }
    subprocess.run(command, check=True, env=environment, cwd=HERE.parents[1], timeout=1500)
    return json.loads((folder / "ends.json").read_text())


def student(data):
    net = ["--backbone", "resnet10", "--width", "0.125", "--px", "32", "--precision", "32-true"]
    given = ["--data", f"{data}/source", "--test", f"{data}/source-test", "--batch", "8"]
    return ["student", *given, *net, "--epochs", "1", "--out", "HOME/run"]


def render():
    return ["render", "--out", "HOME/run", "--count", "40", "--px", "16", "--workers", "1"]


def cases(command, calls):
    """The command with no failure, then with each of the calls failing in turn."""
    jobs = [{"command": command, "kind": "w", "k": 1 << 40, "error": errno.EIO}]
    return jobs + [
        {"command": command, "kind": kind, "k": k, "error": ERRORS[(number + k) % len(ERRORS)]}
        for number, (kind, k) in enumerate(calls)
    ]


def expect_ends(folder, jobs, same):
    ends = sweep(folder, jobs)
    reached = 0
    for number, (job, end) in enumerate(zip(jobs, ends, strict=True)):
        told = (job["kind"], job["k"], os.strerror(job["error"]), end)
        assert "Traceback" not in end["said"], told
        assert end["first"] == (2 if end["reached"] else 0), told
        assert end["again"] == 0, told
        if end["reached"]:
            assert os.strerror(job["error"]) in end["said"], told
            assert str(folder) in end["said"].splitlines()[-1], told  # it names a file
        reached += end["reached"]
        same(folder / "job0/run", folder / f"job{number}/run")
    return reached


def same_set(one, other):
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in other.iterdir()}
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def same_training(one, other):
    expect_same_training(one, other)
    read_result(other / "result.json")


@pytest.mark.long
@needs_compiler
def test_some_calls_fail(whole, tmp_path):
    calls = [("w", 2), ("s", 1), ("r", 1), ("o", 3)]
    for name, command, same in (
        ("render", render(), same_set),
        ("student", student(whole / "data"), same_training),
    ):
        (tmp_path / name).mkdir()
        assert expect_ends(tmp_path / name, cases(command, calls), same) >= 3


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("stage", ["render", "student"])
def test_every_call_fails_in_turn(whole, tmp_path, stage):
    """As many as a small run makes: of each kind until one is not reached any more."""
    command, same = {
        "render": (render(), same_set),
        "student": (student(whole / "data"), same_training),
    }[stage]
    calls = [(kind, k) for kind in KINDS for k in (*range(10), 12, 16, 24)]
    assert expect_ends(tmp_path, cases(command, calls), same) > 20
