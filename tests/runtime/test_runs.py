import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import load_file

from cmkg.errors import InputError
from cmkg.runtime.locks import hold_folder
from cmkg.runtime.runs import Run
from cmkg.runtime.settings import flatten_settings, replace_settings
from tests.hands.runs import cmkg, run_here, stage_commands


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
    holder.wait()
    with Run(tmp_path / "run", Settings()).claim() as run:
        assert run.path("config.json").exists()
        with pytest.raises(InputError, match=f"process {os.getpid()} on"):
            Run(tmp_path / "run", Settings()).claim().__enter__()
    assert not (tmp_path / "run/.lock").exists()


def test_a_system_without_locks_works_without(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # Windows has msvcrt instead; here neither
    with hold_folder(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()


def test_making_a_run_writes_nothing_and_other_settings_are_refused(tmp_path):
    run = Run(tmp_path / "run", Settings())
    assert not (tmp_path / "run").exists()
    with run.claim():
        pass
    Run(tmp_path / "run", Settings())
    with pytest.raises(InputError, match=r"a run with lr = 0\.1, the command asks for 0\.2"):
        Run(tmp_path / "run", Settings(optim=Inner(0.2)))


def test_settings_are_replaced_by_their_flat_names():
    assert replace_settings(Settings(), epochs=3, lr=0.5) == Settings(3, Inner(0.5))
    with pytest.raises(TypeError, match="Settings has no setting 'epocs'"):
        replace_settings(Settings(), epocs=3)
    assert flatten_settings({"a": 1, "b": {"c": 2}}) == {"a": 1, "c": 2}


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
    files = sorted(p.name for p in (tmp_path / "unbroken/run").glob("*.safetensors"))
    assert files
    for name in files:
        a, b = (load_file(tmp_path / f"{w}/run/{name}") for w in ("unbroken", "killed"))
        assert a.keys() == b.keys(), name
        assert all(torch.equal(a[k], b[k]) for k in a), name
    lines = [
        [
            json.loads(x)["step"]
            for x in (tmp_path / f"{w}/run/metrics.jsonl").read_text().splitlines()
        ]
        for w in ("unbroken", "killed")
    ]
    assert lines[0] == lines[1]
