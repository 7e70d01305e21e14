"""The examples of other people's loops, with the real libraries: resumed equals unbroken."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cmkg.prior.prior import Prior

pytestmark = pytest.mark.slow

LOOPS = Path(__file__).parents[1] / "examples/loops"
LIBRARIES = {
    "lstm": "torch",
    "segmentation": "torch",
    "lora": "peft",
    "accelerate_loop": "accelerate",
    "lightning_automatic": "lightning",
    "trainer": "transformers",
}


@pytest.fixture
def loop(monkeypatch):
    monkeypatch.syspath_prepend(str(LOOPS))
    return importlib.import_module


def expect_equal_weights(a, b):
    for (name, one), other in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("name", LIBRARIES)
def test_distilling_resumed_equals_unbroken(loop, name, tmp_path):
    pytest.importorskip(LIBRARIES[name])
    module = loop(name)
    for folder in ("unbroken", "broken", "whole"):
        (tmp_path / folder).mkdir()
    student, prior = module.distil(tmp_path / "unbroken", 2)
    _, half = module.distil(tmp_path / "broken", 1)
    again, resumed = module.distil(tmp_path / "broken", 2)
    assert prior.rms() > 0
    assert half != prior
    assert resumed == prior
    expect_equal_weights(again, student)
    module.main(tmp_path / "whole")


def test_lightnings_manual_target_resumed_equals_unbroken(loop, tmp_path):
    pytest.importorskip("lightning")
    module = loop("lightning_manual")
    common = loop("common")
    prior = Prior.constant(common.network(3, 0), 1e-2, centre=common.network(3, 1))
    for folder in ("unbroken", "broken"):
        (tmp_path / folder).mkdir()
    net, steps = module.train(tmp_path / "unbroken", 2, prior)
    module.train(tmp_path / "broken", 1, prior)
    again, _ = module.train(tmp_path / "broken", 2, prior)
    assert steps == 16
    expect_equal_weights(again, net)


def test_ranks_agree_and_go_on_to_the_same(tmp_path):
    def run(folder, epochs):
        (tmp_path / folder).mkdir(exist_ok=True)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        command = [*launcher, "--master-port", "29521", str(LOOPS / "ddp.py")]
        done = subprocess.run(
            [*command, str(tmp_path / folder), str(epochs)],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found = re.findall("[0-9a-f]{32}", done.stdout)  # the ranks' lines can run into each other
        assert len(found) == 6, done.stdout
        return set(found)

    unbroken = run("unbroken", 2)
    assert len(unbroken) == 3  # of both ranks: one student, one phi, one target
    run("broken", 1)
    assert run("broken", 2) == unbroken
