import os
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch

from cmkg.errors import InputError
from cmkg.prior import Prior
from cmkg.runtime.files import (
    read_arrays,
    read_json,
    save_weights,
    write_arrays,
    write_atomically,
    write_json,
    write_text,
)
from tests.hands.runs import stage_commands


def test_a_full_disk_is_one_sentence_and_earlier_results_stay(whole, tmp_path):
    # no file over 20 KiB can be written
    limit = f"ulimit -f 20; exec {sys.executable} -c 'from cmkg.cli import main; main()' "
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
