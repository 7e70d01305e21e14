import os
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch

from cmkg.errors import InputError
from cmkg.prior.prior import Prior
from cmkg.runtime.files import (
    read_arrays,
    read_json,
    write_arrays,
    write_atomically,
    write_json,
    write_text,
)
from cmkg.runtime.weight_files import read_tensors, save_weights
from tests.hands.runs import cmkg, stage_commands


@pytest.mark.long
def test_a_full_disk_is_one_sentence_and_earlier_results_stay(whole, tmp_path):
    # no file over 20 KiB can be written
    limit = f"ulimit -f 20; exec {sys.executable} -c 'from cmkg.cli.main import main; main()' "
    arguments = " ".join(stage_commands(whole, tmp_path)["student"])
    done = subprocess.run(
        ["bash", "-c", "trap '' XFSZ; " + limit + arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "free space" in done.stderr.splitlines()[-1], done.stderr
    assert not list((tmp_path / "run").glob("*.partial"))
    assert not list((tmp_path / "run").glob("*.safetensors"))


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_permissions_that_the_umask_gives(tmp_path, mask, mode):
    net, before = torch.nn.Linear(2, 1), os.umask(mask)
    try:
        save_weights(tmp_path / "net.safetensors", net)
        write_json(tmp_path / "facts.json", {})
        weights = {name: p.detach() for name, p in net.named_parameters()}
        moved = {name: weight + 0.1 for name, weight in weights.items()}
        Prior.from_checkpoints(weights, moved, 1.0).save(tmp_path / "prior.safetensors")
    finally:
        os.umask(before)
    for name in ("net.safetensors", "facts.json", "prior.safetensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == mode, name


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")

    def fail(partial):
        partial.write_text("ne")
        raise RuntimeError("disk quota exceeded")

    with pytest.raises(OSError, match="could not be written .disk quota exceeded") as error:
        write_atomically(tmp_path / "a.txt", fail)
    assert error.value.filename == str(tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_arrays_and_json_come_back_and_broken_files_are_named(tmp_path):
    write_arrays(tmp_path / "a.npz", x=np.arange(3))
    assert read_arrays(tmp_path / "a.npz")["x"].tolist() == [0, 1, 2]
    (tmp_path / "a.npz").write_bytes(b"PK no")
    with pytest.raises(InputError, match=r"a\.npz: expected arrays"):
        read_arrays(tmp_path / "a.npz")
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(InputError, match=r"b\.json: expected JSON"):
        read_json(tmp_path / "b.json")
    with pytest.raises(InputError, match=r"c\.json: no such file; expected a file of"):
        read_json(tmp_path / "c.json")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB, where this machine allows one."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", "size=3m", "tmpfs"]
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no small disk can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.long
@pytest.mark.parametrize("stage", ["student", "render"])
def test_a_disk_that_fills_up_is_a_sentence_and_the_run_goes_on(whole, small_disk, stage):
    commands = stage_commands(whole, small_disk) | {
        "render": ["render", "--count", "400", "--px", "64", "--out", f"{small_disk}/run"]
    }
    command = commands[stage]
    filler = small_disk / "filler"
    filler.write_bytes(bytes((3 << 20) - (200 << 10)))
    done = cmkg(command)
    _, err = done.communicate(timeout=120)
    assert done.returncode == 2, err
    assert "Traceback" not in err, err
    assert "free space" in err.splitlines()[-1], err
    assert not list(small_disk.rglob("*-*.partial"))
    filler.unlink()
    if stage == "student":
        assert "EPE" in run_to_its_end(command)


def run_to_its_end(command):
    out, err = cmkg(command).communicate(timeout=120)
    return out or err


def test_weights_are_as_long_as_their_header_says(tmp_path):
    save_weights(tmp_path / "a.safetensors", torch.nn.Linear(2, 2))
    with open(tmp_path / "a.safetensors", "ab") as file:
        file.truncate(6 << 30)  # takes no space, and would take the memory
    with pytest.raises(InputError, match="it is longer than its header says"):
        read_tensors(tmp_path / "a.safetensors", "weights")
