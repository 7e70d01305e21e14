"""What tests of stages share: a run in its smallest form, and commands."""

import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
from functools import lru_cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cmkg.cli.main import end_in_one_sentence, run_command
from cmkg.hands.commands.adapt import SCENE
from cmkg.hands.experiments.demo_data import FIRST_TEST_SCENE
from cmkg.hands.files.arrays import checksum
from cmkg.hands.synthesis.rendered import Rendered
from cmkg.runtime.files import read_sealed_json, write_sealed_json

SMALL = {"epochs": 1, "batch": 8, "precision": "32-true"}


NET = {
    "backbone": "resnet10",
    "width": 0.125,
    "px": 32,
    "head": "integral",
    "stem_stride": 2,
    "heatmap_weight": 1000.0,
}


def settings(kind, **flat):
    """Settings of a stage by their names on the command line."""
    config = kind() if isinstance(kind, type) else kind
    own = {field.name for field in dataclasses.fields(config)}
    changes = {name: flat.pop(name) for name in list(flat) if name in own}
    for name in own - set(changes):
        group = getattr(config, name)
        if dataclasses.is_dataclass(group) and flat:
            names = {field.name for field in dataclasses.fields(group)}
            found = {key: flat.pop(key) for key in list(flat) if key in names}
            changes |= {name: dataclasses.replace(group, **found)} if found else {}
    assert not flat, f"{type(config).__name__} has no setting {next(iter(flat))!r}"
    return dataclasses.replace(config, **changes)


def common(whole):
    return {"data": str(whole / "data/source"), "test": str(whole / "data/source-test")}


def stage_commands(whole, out):
    """The four training stages as commands of some 30 to 60 steps."""
    data = [
        "--data",
        f"{whole}/data/source",
        "--test",
        f"{whole}/data/source-test",
        "--batch",
        "4",
        "--precision",
        "32-true",
    ]
    net = ["--backbone", "resnet10", "--width", "0.125", "--px", "32"]
    prior = ["--prior", f"{whole}/depth/prior_p2.safetensors", "--sigma", "0.1"]
    return {
        "teacher": ["teacher", *data, *net, "--epochs", "17", "--out", f"{out}/run"],
        "student": ["student", *data, *net, "--epochs", "17", "--out", f"{out}/run"],
        "distill": [
            "distill",
            *data,
            "--student",
            f"{whole}/student",
            "--teacher",
            f"{whole}/teacher",
            "--epochs",
            "6",
            "--out",
            f"{out}/run",
        ],
        "target": [
            "target",
            "--data",
            f"{whole}/data/target",
            "--test",
            f"{whole}/data/target-test",
            "--student",
            f"{whole}/student",
            "--source",
            f"{whole}/data/source",
            "--batch",
            "4",
            "--precision",
            "32-true",
            "--epochs",
            "13",
            *prior,
            "--out",
            f"{out}/run",
        ],
    }


def cmkg(arguments, **environment):
    code = "from cmkg.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"CMKG_CHECKPOINT_SECONDS": "0"} | environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def run_here(arguments):
    """Runs a command in this process; returns what it wrote to standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        run_command(arguments)
    return said.getvalue()


def says(arguments, code=2):
    """What a command that ends with this exit code writes to standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as end:
        end_in_one_sentence(lambda: run_command(arguments))
    assert end.value.code == code, said.getvalue()
    assert "Traceback" not in said.getvalue()
    return said.getvalue()


@lru_cache
def rendered_hands():
    """Hands with something around them that nothing was trained on: samples of 256 px."""
    scene = dataclasses.replace(SCENE, px=256, margin=1.7, in_front=0.0)
    return Rendered(scene, 12, FIRST_TEST_SCENE + 200_000).samples(range(12))


def rendered_picture(number, mirrored=False):
    """One of them; mirrored it shows a left hand."""
    return np.ascontiguousarray(rendered_hands()[number].rgb[:, :: -1 if mirrored else 1])


def expect_same_training(first, second):
    """Two run folders hold equal tensors in files of the same names, and logs of the same steps."""
    files = sorted(path.name for path in first.glob("*.safetensors"))
    assert files
    for name in files:
        a, b = load_file(first / name), load_file(second / name)
        assert a.keys() == b.keys(), name
        assert all(torch.equal(a[key], b[key]) for key in a), name
    lines = [
        [json.loads(line)["step"] for line in (one / "metrics.jsonl").read_text().splitlines()]
        for one in (first, second)
    ]
    assert lines[0] == lines[1]


def replace_array(folder, name, array):
    """Another array in a packed set, with the checksums that belong to it."""
    np.save(folder / f"{name}.npy", array)
    meta = read_sealed_json(folder / "meta.json")
    meta["crc32"][name] = checksum(folder / f"{name}.npy")
    write_sealed_json(folder / "meta.json", meta)
