import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from cmkg.errors import InputError
from cmkg.hands.commands import distill, evaluate, target
from cmkg.hands.commands import student as source
from cmkg.hands.datasets.packed.format import Packed
from cmkg.hands.experiments import report as write_report
from cmkg.hands.network.augment import NONE
from cmkg.hands.paper import reproduce as paper
from cmkg.hands.paper.presets import ROWS, TABLE_2, Paper, Recipe, preset_of


@pytest.fixture(scope="module")
def some_rows(tmp_path_factory, made_sets):
    """Two rows of table 2 and one of table 1 with 𝒜, in their smallest form."""
    out = tmp_path_factory.mktemp("paper") / "run"
    shared = {
        "out": str(out),
        "quick": True,
        "rhd": str(made_sets["rhd"]),
        "stb": str(made_sets["stb"]),
        "precision": "32-true",
    }
    paper.run(Paper(preset="table2", rows=("stb/none", "stb/prior-l2"), **shared))
    return out, shared


def test_rows_run_alone_and_the_report_marks_the_others(some_rows):
    out, _ = some_rows
    found = json.loads((out / "paper.json").read_text())
    rows = {r["stage"]: r for r in found["presets"]["table2"]}
    assert [r for r in rows if rows[r]["ours"]] == ["stb/none", "stb/prior-l2"]
    assert found["made"]
    for stage in ("stb/none", "stb/prior-l2"):
        errors = np.load(out / f"seed-0/{stage}/predictions.npz")["errors_mm"]
        assert rows[stage]["ours"]["epe_mm"]["mean"] == pytest.approx(errors.mean(), rel=1e-5)
    text = (out / "paper.md").read_text()
    assert "| ℓ², σ = 1e-3 | not run | not run | 12.28 | 0.957 |" in text
    assert "Made data" in text
    page = (out / "paper.html").read_text()
    assert "not run" in page
    assert "Zimmermann" in page
    assert all(
        (a or b).startswith(("data:", "#"))
        for a, b in re.findall(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)|url\(([^)]+)\)""", page)
    )
    settings = json.loads((out / "seed-0/stb/prior-l2/config.json").read_text())
    # from theta_0
    assert settings["regulariser"]["prior"].endswith("r18/act-att/prior_p2.safetensors")
    assert not settings["start"]


def test_another_row_reuses_what_is_there(some_rows, capsys):
    out, shared = some_rows
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    paper.run(Paper(preset="table3", rows=("stb/l2-1e-5",), **shared))
    assert before.items() <= {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}.items()
    assert (out / "seed-0/stb/l2-1e-5/result.json").exists()
    write_report.run(write_report.WriteReport(str(out)))
    with pytest.raises(InputError, match="expected the folder of a `cmkg run`"):
        write_report.run(write_report.WriteReport(str(out / "data")))


def test_the_plan_has_the_papers_values():
    config = Paper()
    for preset, variants in ROWS.items():
        rows = [variant.stage for variant in variants]
        plan = paper.all_stages(replace(config, preset=preset), rows, 0)
        assert list(plan)[-1] == rows[-1]
        assert set(rows) <= set(plan)
        for name, stage in plan.items():
            if isinstance(stage, evaluate.Evaluate):
                assert stage.weights.endswith(f"stb/{name.split('/')[1]}/target.safetensors")
                assert (stage.data, stage.source) == (
                    "runs/paper/data/synthetic-test",
                    "runs/paper/data/stb-train",
                )
                continue
            assert (stage.optim.batch, stage.optim.lr) == (32, 2.5e-4), name
            assert stage.augmentation is NONE, name
            assert stage.optim.epochs == (200 if name.endswith("/teacher") else 100)
            if isinstance(stage, source.Source):
                assert stage.net.px == 256
                expected = "resnet50" if name.startswith("r50") else "resnet18"
                assert stage.net.backbone == expected
                assert stage.net.head == "pooled"
                assert stage.net.loss_unit == "m"
                assert bool(stage.start) == name.endswith("/continued")
            if isinstance(stage, distill.Distill):
                assert stage.criterion.attention_weight == (1e3 if name.endswith("act-att") else 0)
                phi = stage.phi
                assert (phi.alpha, phi.beta, phi.select) == (2.5e-4, 1e-3, "all")
                assert (phi.split, phi.inner_steps, phi.inner_optimizer) == (False, 1, "sgd")
                assert phi.exponents == ((1, 2) if name == "r18/act-att" else ())
            if isinstance(stage, target.Target):
                assert stage.regulariser.parameters == "all"
                assert stage.regulariser.coupled
            else:
                assert bool(stage.source.extra) == ("-a/" in name)
    assert config.synthetic_count == 50_000
    assert {v.stage: v.paper_epe_mm for v in TABLE_2} == {
        "stb/none": 15.67,
        "stb/l1-1e-4": 11.41,
        "stb/l1-1e-6": 11.82,
        "stb/l2-1e-3": 12.28,
        "stb/l2-1e-5": 12.02,
        "stb/prior-l1": 8.86,
        "stb/prior-l2": 8.18,
    }


def test_the_recipe_reaches_the_stages():
    recipe = Recipe(
        alpha=0.5,
        beta=0.25,
        phi_parameters="weights",
        loss_unit="mm",
        loss_mean=True,
        augmented=True,
        adam_goes_on=True,
        target_family="r50-a",
    )
    config = Paper(preset="table2", rows=("stb/l1-3e-2", "stb/prior-l2"), recipe=recipe)
    plan = paper.all_stages(config, config.wanted(), 0)
    assert list(plan)[-2:] == ["r50-a/act-att", "stb/prior-l2"]
    taught, tuned = plan["r50-a/act-att"], plan["stb/l1-3e-2"]
    assert (taught.phi.alpha, taught.phi.beta, taught.phi.select) == (0.5, 0.25, "weights")
    assert taught.optimizer_state.endswith("r50-a/student/optimizer.pt")
    student = plan["r50-a/student"]
    assert student.keep_optimizer
    assert (student.net.backbone, student.net.loss_unit, student.net.loss_mean) == (
        "resnet50",
        "mm",
        True,
    )
    regulariser = tuned.regulariser
    assert (regulariser.sigma, regulariser.exponent, regulariser.parameters) == (3e-2, 1, "weights")
    assert all(stage.augmentation is not NONE for stage in plan.values())
    labels = paper.describe_rows(config)
    assert labels["table2"]["stb/l1-3e-2"] == ["stb/l1-3e-2", None, None]
    assert labels["table1"]["r18/student"][0] == "ResNet-18, RGB, 100 epochs"
    assert labels["table1"]["r18/continued"][0] == "ResNet-18, RGB, 200 epochs"


def test_mistakes_are_one_sentence(tmp_path):
    with pytest.raises(
        InputError, match="--rhd: expected the dataset's folder, got none; give it, or --quick"
    ):
        paper.run(Paper(out=str(tmp_path / "a")))
    with pytest.raises(InputError, match="no such folder; expected RHD_published_v2"):
        paper.run(Paper(out=str(tmp_path / "a"), rhd=str(tmp_path / "none")))


@pytest.mark.long
def test_two_processes_train_one_student(some_rows, tmp_path):
    """The same command under torchrun: one run folder, both processes end. (What BatchNorm
    changes: another test's.)"""
    out, _ = some_rows
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        "29641",
        "-m",
        "cmkg",
        "student",
        "--data",
        f"{out}/data/rhd-training",
        "--test",
        f"{out}/data/rhd-evaluation",
        "--out",
        str(tmp_path / "two"),
        "--backbone",
        "resnet10",
        "--width",
        "0.125",
        "--px",
        "32",
        "--batch",
        "4",
        "--epochs",
        "3",
        "--precision",
        "32-true",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("EPE") == 1
    lines = [json.loads(line) for line in (tmp_path / "two/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6]
    assert load_file(tmp_path / "two/student.safetensors")
    assert json.loads((tmp_path / "two/result.json").read_text())["samples"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["table1", "table3", "figure6"])
def test_open_tables_run_in_their_smallest_form(tmp_path, preset):
    config = replace(preset_of(preset, is_open=True), quick=True, out=str(tmp_path / "run"))
    paper.run(replace(config, seeds=(0,)))
    found = json.loads((tmp_path / "run/paper.json").read_text())
    assert all(row["ours"] for row in found["presets"][preset])
    assert not found["made"]


@pytest.mark.slow
def test_all_six_presets_run_quickly_on_made_data(tmp_path):
    for preset in ROWS:
        paper.run(Paper(preset=preset, quick=True, out=str(tmp_path / "run")))
    found = json.loads((tmp_path / "run/paper.json").read_text())
    assert all(r["ours"] for rows in found["presets"].values() for r in rows)
    assert all(
        Packed(p.parent).meta["holds"].get("made") or p.parent.name.startswith("synthetic")
        for p in Path(tmp_path / "run/data").glob("*/meta.json")
    )
