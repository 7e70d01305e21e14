import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from cmkg.errors import InputError
from cmkg.hands.stages.finished_run import FinishedRun
from cmkg.runtime.files import write_arrays
from cmkg.runtime.locks import hold_folder, hold_lock
from cmkg.runtime.run import Run
from cmkg.runtime.run_records import read_result
from cmkg.runtime.settings import flatten_settings
from cmkg.runtime.weight_files import save_weights
from tests.hands.runs import cmkg, expect_same_training, run_here, stage_commands


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1


@dataclass(frozen=True)
class Settings:
    epochs: int = 1
    optim: Inner = field(default_factory=Inner)


HOLD = """
import sys, time
from pathlib import Path
from cmkg.runtime.locks import hold_folder
with hold_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_command_on_a_folder_is_told_who_holds_it(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {holder.pid} on .* works on this folder"):
        hold_folder(tmp_path / "run").__enter__()
    holder.kill()  # a killed process leaves no lock behind
    holder.communicate()
    with Run(tmp_path / "run", Settings()).claim() as run:
        assert run.path("config.json").exists()
        with pytest.raises(InputError, match=f"process {os.getpid()} on"):
            Run(tmp_path / "run", Settings()).claim().__enter__()
    assert not (tmp_path / "run/.lock").exists()


def test_making_a_run_writes_nothing_and_other_settings_are_refused(tmp_path):
    run = Run(tmp_path / "run", Settings())
    assert not (tmp_path / "run").exists()
    with run.claim():
        pass
    Run(tmp_path / "run", Settings())
    with pytest.raises(InputError, match=r"a run with lr = 0\.1, the command asks for 0\.2"):
        Run(tmp_path / "run", Settings(optim=Inner(0.2)))


def test_settings_are_flat_as_in_commands():
    assert flatten_settings({"a": 1, "b": {"c": 2}}) == {"a": 1, "c": 2}


@pytest.mark.long
@pytest.mark.parametrize("stage", ["distill", "target"])
def test_killed_and_resumed_is_bit_for_bit_unbroken(whole, tmp_path, stage):
    for name in ("unbroken", "killed"):
        (tmp_path / name).mkdir()
    command = stage_commands(whole, tmp_path / "killed")[stage]
    killed, checkpoint = cmkg(command), tmp_path / "killed/run/checkpoint.pt"
    deadline = time.time() + 120
    while not checkpoint.exists() and killed.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert checkpoint.exists(), killed.stderr.read()
    assert not (tmp_path / "killed/run/result.json").exists()
    assert "resumes at step" in run_here(command)
    run_here(stage_commands(whole, tmp_path / "unbroken")[stage])
    expect_same_training(tmp_path / "unbroken/run", tmp_path / "killed/run")


def test_what_happened_before_the_lock_is_seen(tmp_path):
    first, second, other = (Run(tmp_path / "run", {"seed": seed}) for seed in (0, 0, 1))
    with first.claim():
        first.finish({"epe_mm": 1.0})
    with pytest.raises(InputError, match="was finished by another process"):
        second.claim().__enter__()
    with pytest.raises(InputError, match="holds a run with seed = 0, the command asks for 1"):
        other.claim().__enter__()
    assert Run(tmp_path / "run", {"seed": 0}).result["epe_mm"] == 1.0


def test_a_checkpoint_says_whose_it_is_before_anything_is_written(tmp_path):
    run = Run(tmp_path / "run", {"seed": 0})
    with run.claim():
        run.save_checkpoint(3, {"model": torch.nn.Linear(2, 2)})
    (tmp_path / "run/config.json").unlink()
    with pytest.raises(InputError, match="holds a run with seed = 0, the command asks for 1"):
        Run(tmp_path / "run", {"seed": 1}).claim().__enter__()
    assert not (tmp_path / "run/config.json").exists()


def test_inputs_are_told_apart_by_contents_not_by_place(tmp_path):
    def run(place, contents):
        inputs = {"checksum of data": contents} if contents else {}
        return Run(tmp_path / "run", {"data": place}, inputs=inputs)

    first = run("a/set", "1234")
    with first.claim():
        first.finish({"epe_mm": 1.0})
    assert run("moved/set", "1234").result["epe_mm"] == 1.0
    assert run("a/set", "").result["epe_mm"] == 1.0  # it was archived
    with pytest.raises(InputError, match="checksum of data = '1234', the command asks for '5678'"):
        run("a/set", "5678")


def test_weights_that_the_run_did_not_write_are_refused(whole, tmp_path):
    shutil.copytree(whole / "student", tmp_path / "student")
    shutil.copy(whole / "student/theta_0.safetensors", tmp_path / "student/student.safetensors")
    with pytest.raises(InputError, match="is not the file that this run wrote"):
        FinishedRun(tmp_path / "student").load("student")
    shutil.copy(whole / "student/student.safetensors", tmp_path / "student/student.safetensors")
    FinishedRun(tmp_path / "student").load("student")
    config = tmp_path / "student/config.json"
    config.write_text(config.read_text().replace('"px": 32', '"px": 40'))
    with pytest.raises(InputError, match="config.json: says other settings than result.json"):
        FinishedRun(tmp_path / "student").load("student")


@pytest.mark.parametrize("torn", [b'{"step": 150, "a', b'{"step": 150, "a": {', b"\0\0\0\0"])
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    """What a full disk or a power cut leaves: the run goes on, and is reported."""
    run = Run(tmp_path / "run", {"seed": 0})
    with run.claim():
        for step in (50, 100):
            run.log(step=step, a=1.0)
        log = run.path("metrics.jsonl")
        log.write_bytes(log.read_bytes() + torn)
        assert [line["step"] for line in run.logged()] == [50, 100]
        run.log(step=150, a=2.0)
        assert [line["step"] for line in run.logged()] == [50, 100, 150]
        run.save_checkpoint(150, {"model": torch.nn.Linear(2, 2)})
        log.write_bytes(log.read_bytes() + torn)
        assert run.resume({"model": torch.nn.Linear(2, 2)}) == 150
        assert log.read_bytes().endswith(b"}\n")


def test_a_folder_of_somebody_elses_is_not_written_into(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/README.md").write_text("mine")
    with pytest.raises(InputError, match=r"holds something else \(README.md\)"):
        Run(tmp_path / "run", {"seed": 0})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is no folder"):
        Run(tmp_path / "file", {"seed": 0})


def finished(folder, epe_mm):
    run = Run(folder, {"seed": 0})
    with run.claim():
        write_arrays(run.path("predictions.npz"), errors=np.full(3, epe_mm))
        run.log(step=50, a=1.0)
        save_weights(run.path("target.safetensors"), torch.nn.Linear(2, 2))
        run.finish({"epe_mm": epe_mm})
    return folder


def test_a_result_is_held_against_where_it_lies_and_what_lies_beside_it(tmp_path):
    out = tmp_path / "out"
    one, other = (finished(out / f"target/none/seed-{n}", 10.0 + n) for n in range(2))
    assert read_result(one / "result.json", out)["epe_mm"] == 10.0
    moved = tmp_path / "moved"
    shutil.copytree(out, moved)  # a whole run may lie elsewhere
    assert read_result(moved / "target/none/seed-1/result.json", moved)["epe_mm"] == 11.0
    assert Run(moved / "target/none/seed-1", {"seed": 0}).result["epe_mm"] == 11.0
    for name in ("result.json", "predictions.npz", "metrics.jsonl", "target.safetensors"):
        copy = tmp_path / f"exchanged-{name}"
        shutil.copytree(out, copy)
        a, b = (copy / f"target/none/seed-{n}/{name}" for n in range(2))
        if name == "metrics.jsonl":
            b.write_text('{"step": 50, "a": 0.5}\n')
        held = a.read_bytes()
        shutil.copy(b, a)
        b.write_bytes(held)
        with pytest.raises(InputError, match=r"were exchanged|is not the file that this run wrote"):
            read_result(copy / "target/none/seed-0/result.json", copy)
    (moved / "target/none/seed-1").rename(moved / "target/none/seed-7")
    with pytest.raises(InputError, match="results or folders were exchanged"):
        read_result(moved / "target/none/seed-7/result.json", moved)
    (other / "target.safetensors").unlink()
    with pytest.raises(InputError, match="this run wrote it, and it is gone"):
        Run(other, {"seed": 0})


def test_other_threads_are_said_on_resuming(tmp_path, capsys):
    run = Run(tmp_path / "run", {"seed": 0})
    with run.claim():
        run.save_checkpoint(3, {"model": torch.nn.Linear(2, 2)})
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert Run(tmp_path / "run", {"seed": 0}).resume({"model": torch.nn.Linear(2, 2)}) == 3
    finally:
        torch.set_num_threads(before)
    assert f"threads = {before}, this session has {before + 1}" in capsys.readouterr().err


@pytest.mark.parametrize("said", ["abc", "-1", "inf"])
def test_a_variable_that_is_no_number_is_a_sentence(tmp_path, monkeypatch, said):
    monkeypatch.setenv("CMKG_CHECKPOINT_SECONDS", said)
    with pytest.raises(InputError, match="CMKG_CHECKPOINT_SECONDS: expected seconds from 0"):
        Run(tmp_path / "run", {"seed": 0})


@pytest.mark.parametrize("held", [b"\xff\xfe", b"process of making cheese\n"])
def test_a_lock_that_is_none_of_ours_is_left_alone(tmp_path, held):
    path = tmp_path / "set.lock"
    path.write_bytes(held)
    with pytest.raises(InputError, match="none of cmkg's locks"):
        hold_lock(path, tmp_path / "set").__enter__()
    assert path.read_bytes() == held
