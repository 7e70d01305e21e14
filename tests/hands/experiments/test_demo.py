import json
import signal
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cmkg.hands.datasets.packed.format import Packed
from cmkg.hands.experiments import demo as main
from cmkg.hands.experiments import demo_settings
from cmkg.hands.report.collect import row_folder
from cmkg.hands.report.run_page import headline
from cmkg.hands.stages.finished_run import FinishedRun
from cmkg.prior.prior import Prior
from cmkg.runtime.settings import flatten_settings
from tests.hands.runs import cmkg


def test_every_row_has_a_result_for_every_seed(whole):
    results = json.loads((whole / "results.json").read_text())
    trained = [r for r in results["rows"] if r["trained"]]
    assert len(trained) == 6
    assert all(len(r["epe_mm"]["values"]) == 1 for r in trained)
    for row in trained:
        for seed, value in enumerate(row["epe_mm"]["values"]):
            errors = np.load(row_folder(whole, row["name"]) / f"seed-{seed}/predictions.npz")[
                "errors_mm"
            ]
            # the table is what the predictions say
            assert errors.mean() == pytest.approx(value, rel=1e-5)
    assert {r["name"] for r in results["rows"]} >= {
        "mean-pose",
        "untouched-student",
        "untouched-rgb",
        "untouched-shuffled",
        "untouched-depth",
        "untouched-all",
    }
    tried = {r["name"]: len(r["tried"]["validation_epe_mm"]) for r in trained if r["tried"]}
    # the same number of tries for all
    assert set(tried.values()) == {2}
    assert "l2" in tried
    assert "prior" in tried


def test_rows_start_from_the_same_theta_0(whole):
    theta_0 = load_file(whole / "student/theta_0.safetensors")
    prior = Prior.load(whole / "depth/prior_p2.safetensors")
    net = FinishedRun(whole / "student").load("theta_0")
    for name, t in net.state_dict().items():
        assert torch.equal(t, theta_0[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior.check_start(net)
    assert prior.manifest["loss_units"].startswith("cm^2")
    assert prior.rms() > 0


def test_finished_stages_are_reused(whole):
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*.safetensors")}
    main.run(demo_settings.read_experiment(whole))
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*.safetensors")}


@pytest.mark.slow
def test_the_whole_run_killed_again_and_again_is_the_unbroken_one(whole, tmp_path):
    settings = flatten_settings(json.loads((whole / "config.json").read_text()))
    flags = ["--target-lr", str(settings["target_lr"])]
    for key in (
        "source_count",
        "target_frames",
        "backbone",
        "width",
        "px",
        "batch",
        "labels",
        "source_epochs",
        "target_epochs",
        "precision",
    ):
        flags += [f"--{key.replace('_', '-')}", str(settings[key])]
    flags += ["--with-prior", "--stops", *map(str, settings["stops"])]
    flags += ["--wide-count", "16", "--wide-epochs", "1", "--long-epochs", "1"]
    flags += ["--rows", *settings["rows"]]
    flags += ["--tries", *map(str, settings["tries"]), "--seeds", *map(str, settings["seeds"])]
    rng, kills = np.random.default_rng(0), 0
    while kills < 40:
        process = cmkg(["run", "demo", "--out", str(tmp_path / "run"), *flags])
        try:
            assert process.wait(rng.uniform(4, 14)) == 0, process.stderr.read()
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills >= 2
    for path in sorted(whole.rglob("*.safetensors")):
        a, b = load_file(path), load_file(tmp_path / "run" / path.relative_to(whole))
        assert a.keys() == b.keys(), path
        assert all(torch.equal(a[k], b[k]) for k in a), path


def test_the_recipe_goes_on_from_the_wide_student_with_the_wide_hands_alongside(whole):
    wide = json.loads((whole / "wide/config.json").read_text())
    assert Path(wide["start"]) == whole / "all/student.safetensors"
    assert Path(wide["source"]["data"]) == whole / "data/wide"
    row = json.loads((row_folder(whole, "recipe") / "seed-0/config.json").read_text())
    assert row["start"] == str(whole / "wide/student.safetensors")
    assert row["joined"]["alongside"] == str(whole / "data/wide")
    assert Packed(whole / "data/wide").meta["holds"]["wide"]
    assert not Packed(whole / "data/source").meta["holds"]["wide"]


def test_training_on_the_target_may_be_left_out(whole):
    held = json.loads((whole / "target/tuned-depth/tried.json").read_text())
    assert (held["setting"], set(held["validation_epe_mm"])) == ("epochs", {"0", "1"})
    best = min(held["validation_epe_mm"], key=held["validation_epe_mm"].get)
    assert row_folder(whole, "tuned-depth") == whole / f"target/tuned-depth/epochs-{best}"
    start = load_file(whole / "depth/distilled.safetensors")
    left = load_file(whole / "target/tuned-depth/try-0/target.safetensors")
    changed = {name for name in start if not torch.equal(start[name], left[name])}
    assert changed == {"convention"}  # the target's bones; no weight


@pytest.mark.parametrize(
    ("depth", "sentence"),
    [
        (61.0, "Depth did not help: 16 labels alone were as good"),
        (50.0, "Depth brought 16 labels 50 % of the way to 48"),
        (42.0, "Depth made 16 labels nearly as good as 48"),
        (39.0, "Depth made 16 labels as good as 48"),
    ],
)
def test_the_headline_says_no_more_than_was_found(depth, sentence):
    errors = {"student": 60.0, "depth": depth, "all": 40.0}
    facts = {"worth": [{"epe_mm": errors}], "settings": {"labels": 16}, "counts": {"source": 48}}
    assert headline(facts) == sentence


def test_the_page_says_what_depth_was_worth(whole):
    results = json.loads((whole / "results.json").read_text())
    first = results["worth"][0]
    errors = {stage["name"]: stage["epe_mm"] for stage in results["source"]}
    assert first["gain_mm"] == errors["student"] - errors["depth"]
    page = (whole / "report.html").read_text()
    assert f"<h1>{headline(results)}</h1>" in page
    assert sum(results["loss_shares"].values()) == pytest.approx(1)
    assert set(results["loss_shares"]) == {"regression", "outputs"}
