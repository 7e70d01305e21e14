import json
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.hands.runs import cmkg, run_here, stage_commands


@pytest.mark.parametrize("stage", ["student", "distill", "target"])
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
