"""Every stage, killed at random moments, ends with the weights of the unbroken one.

SIGKILL at any moment; SIGTERM and SIGINT, which finish the step and say which one is on disk. Its
own target, `make test-kills`: minutes.
"""

import itertools
import re
import signal
import subprocess

import numpy as np
import pytest

from tests.hands.runs import cmkg, expect_same_training, stage_commands

KILLS = 13  # a stage; of the four stages 52
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT)
CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
STAGES = ("teacher", "student", "distill", "target")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_killed_at_random_moments_every_tensor_is_equal(whole, tmp_path, stage):
    for name in ("unbroken", "killed"):
        (tmp_path / name).mkdir()
    unbroken = cmkg(stage_commands(whole, tmp_path / "unbroken")[stage], OMP_NUM_THREADS="1")
    assert unbroken.wait(120) == 0
    command = stage_commands(whole, tmp_path / "killed")[stage]
    rng, kills, run = np.random.default_rng(STAGES.index(stage)), 0, tmp_path / "killed/run"
    for number in itertools.cycle(SIGNALS):
        job = cmkg(command, OMP_NUM_THREADS="1")
        began = (run / "config.json").exists()
        try:  # the first moment after it has begun, then any
            _, err = job.communicate(timeout=float(rng.uniform(2.5, 6.0) if began else 4.0))
        except subprocess.TimeoutExpired:
            job.send_signal(number)
            _, err = job.communicate(timeout=60)
            kills += 1
        if (run / "result.json").exists():  # the signal may have met Python's own end
            if kills >= KILLS:
                break
            for left in run.iterdir():  # finished too early: once more from the beginning
                left.unlink()
            continue
        assert job.returncode == CODES[number], err
        assert "Traceback" not in err, err
        expect_truth(err, run, number)
        if kills >= KILLS:
            job = cmkg(command, OMP_NUM_THREADS="1")
            _, err = job.communicate(timeout=120)
            assert job.returncode == 0, err
            break
    expect_same_training(tmp_path / "unbroken/run", tmp_path / "killed/run")


def expect_truth(err, run, number):
    """What a stopped program says of its disk is so."""
    if number == signal.SIGKILL:
        return
    last = err.strip().splitlines()[-1]
    assert f"stopped by {number.name}" in last, last
    said = re.search(r"step (\d+) of \d+ is on disk", last)
    assert bool(said) == (run / "checkpoint.pt").exists(), last
    if said:
        from cmkg.runtime.run_records import read_checkpoint

        assert read_checkpoint(run / "checkpoint.pt").step == int(said[1])
