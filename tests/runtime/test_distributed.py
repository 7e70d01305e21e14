import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cmkg.cli.main import run_command
from cmkg.errors import InputError
from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.synthesis.rendered import Rendered
from tests.runtime import steps_on_processes


def free_port():
    """One that nobody listens on: a test before may not have given its own back yet."""
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def torchrun(count, *arguments):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(count),
        "--master-port",
        str(free_port()),
        *arguments,
    ]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CMKG_CHECKPOINT_SECONDS": "0"},
    )


def after_steps(count, folder, *kinds):
    out = folder / f"{count}.safetensors"
    if count == 1:
        steps_on_processes.main(out, *kinds)
        return load_file(out)
    process = torchrun(count, steps_on_processes.__file__, str(out), *kinds)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    return load_file(out)


@pytest.mark.long
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_theta_phi_and_losses_on_processes_are_those_of_one(tmp_path, count):
    """Also where the user has wrapped the distiller in DistributedDataParallel, or the student."""
    one, found = (after_steps(n, tmp_path, "plain", "wrapped", "projected") for n in (1, count))
    assert one.keys() == found.keys()
    assert any(name.startswith("wrapped: phi/") for name in one)
    for name, t in one.items():
        torch.testing.assert_close(found[name], t, rtol=1e-5, atol=1e-5, msg=name)
        assert t.dim() == 0 or (t != 0).any()


@pytest.mark.long
def test_labels_for_some_samples_are_weighted_alike_wherever_they_are(tmp_path):
    """As many in each process, eight beside one, none in one: the steps of one process."""
    one, two = (after_steps(n, tmp_path, "labelled", "scarce", "uneven") for n in (1, 2))
    for name, t in one.items():
        torch.testing.assert_close(two[name], t, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.slow
def test_batchnorm_sees_its_own_share_on_cpus(tmp_path):
    """What BatchNorm changes: each process normalises by its share of the batch, so the steps
    differ, though little."""
    one, two = (after_steps(n, tmp_path, "batchnorm") for n in (1, 2))
    theta = [
        torch.cat([v.flatten() for k, v in found.items() if ": theta/" in k])
        for found in (one, two)
    ]
    assert not torch.allclose(*theta, rtol=1e-5, atol=1e-5)
    assert (theta[0] - theta[1]).norm() / theta[0].norm() < 0.05


@pytest.fixture(scope="module")
def hands(tmp_path_factory):
    return pack(
        Rendered(SceneConfig(px=40, seed=3), 64),
        tmp_path_factory.mktemp("hands") / "set",
        workers=1,
    ).folder


@pytest.mark.slow
def test_a_killed_process_ends_the_job_in_a_sentence_and_the_job_goes_on(hands, tmp_path):
    command = [
        "-m",
        "cmkg",
        "student",
        "--data",
        str(hands),
        "--test",
        str(hands),
        "--backbone",
        "resnet10",
        "--width",
        "0.125",
        "--px",
        "32",
        "--batch",
        "8",
        "--epochs",
        "40",
        "--precision",
        "32-true",
        "--out",
        str(tmp_path / "run"),
    ]
    job = torchrun(2, *command)
    checkpoint, deadline = tmp_path / "run/checkpoint.pt", time.time() + 120
    while not checkpoint.exists() and job.poll() is None and time.time() < deadline:
        time.sleep(0.02)
    children = [
        int(p) for p in Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    ]
    os.kill(children[1], signal.SIGKILL)  # the second process, or whatever torchrun started second
    _, err = job.communicate(timeout=120)
    assert job.returncode != 0
    assert checkpoint.exists()
    assert not (tmp_path / "run/result.json").exists()
    again = torchrun(2, *command)
    out, err = again.communicate(timeout=200)
    assert again.returncode == 0, err[-2000:]
    assert "resumes at step" in err, err[-2000:]
    assert out.count("EPE") == 1, err[-2000:]
    assert json.loads((tmp_path / "run/result.json").read_text())["samples"] == 64
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(50, 321, 50)) + [320]


def small_student(hands, out, batch=8, epochs=3):
    data = ["--data", str(hands), "--test", str(hands), "--precision", "32-true"]
    net = ["--backbone", "resnet10", "--width", "0.125", "--px", "32"]
    return [
        "student",
        *data,
        *net,
        "--batch",
        f"{batch}",
        "--epochs",
        f"{epochs}",
        "--out",
        f"{out}",
    ]


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("settings", "process 1 was started with lr = 0.5, process 0 with 0.00025"),
        ("folder", "process 1 was started with the folder = "),
        ("inf", "a loss of another process is not finite in this step"),
        ("batches", "process 1 has 4 batches in this epoch, others have not as many"),
        pytest.param("stopped", "process 0 waited 0.1 minutes", marks=pytest.mark.slow),
    ],
)
def test_a_fault_of_one_process_is_a_sentence_and_nobody_waits(
    hands, tmp_path, monkeypatch, fault, sentence
):
    monkeypatch.setenv("CMKG_TIMEOUT_MINUTES", "0.1")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    out = tmp_path / "run"
    command = [str(out)] if fault == "batches" else small_student(hands, out)
    job = torchrun(2, str(Path(__file__).with_name("fault_on_one_process.py")), fault, *command)
    _, err = job.communicate(timeout=100)
    assert job.returncode != 0
    assert sentence in err, err[-3000:]
    assert not (out / "result.json").exists()


@pytest.mark.slow
def test_a_job_that_is_asked_to_end_keeps_its_step_for_as_many_processes(hands, tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    job = torchrun(2, "-m", "cmkg", *small_student(hands, unbroken, epochs=20))
    job.communicate(timeout=200)
    job = torchrun(2, "-m", "cmkg", *small_student(hands, broken, epochs=20))
    while not (broken / "checkpoint.pt").exists() and job.poll() is None:
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    _, err = job.communicate(timeout=100)
    assert "stopped by SIGTERM" in err
    assert "of 160 is on disk; the same command goes on from there" in err
    with pytest.raises(InputError, match=r"was written by 2 process\(es\), this job has 1"):
        run_command(small_student(hands, broken, epochs=20))
    job = torchrun(2, "-m", "cmkg", *small_student(hands, broken, epochs=20))
    _, err = job.communicate(timeout=200)
    assert "resumes at step" in err
    a, b = (load_file(one / "student.safetensors") for one in (unbroken, broken))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 7])
def test_a_batch_that_cannot_be_shared_is_refused(hands, tmp_path, batch):
    job = torchrun(2, "-m", "cmkg", *small_student(hands, tmp_path / "run", batch))
    _, err = job.communicate(timeout=100)
    why = "is smaller than there are processes" if batch == 1 else "leaves a rest"
    assert f"--batch: a batch of {batch} samples on 2 processes {why}" in err, err[-2000:]
