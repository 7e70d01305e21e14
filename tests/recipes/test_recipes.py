"""The whole chain in its smallest form; killed and resumed equals unbroken, bit for bit; the
report in a real browser."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cmkg import engine
from cmkg.errors import InputError
from cmkg.hands.augment import Augmentation
from cmkg.hands.datasets.packed import Packed
from cmkg.prior import Prior
from cmkg.recipes import (
    distill,
    evaluate,
    experiment,
    export,
    graded,
    preflight,
    regime,
    render,
    report,
    sources,
    student,
    study,
    target,
    teacher,
)
from cmkg.recipes.common import predict
from cmkg.report.collect import row_folder

SMALL = {"epochs": 1, "batch": 8, "precision": "32-true"}
NET = {
    "backbone": "resnet10",
    "width": 0.125,
    "px": 32,
    "head": "integral",
    "stem_stride": 2,
    "heatmap_weight": 1000.0,
}


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """One `cmkg run` of everything, as small as it goes."""
    out = tmp_path_factory.mktemp("whole") / "run"
    experiment.run(
        experiment.Experiment(
            out=str(out),
            source_count=48,
            target_frames=12,
            backbone="resnet10",
            width=0.125,
            px=32,
            batch=8,
            teacher_epochs=1,
            student_epochs=1,
            distill_epochs=1,
            target_epochs=1,
            wide_count=16,
            wide_epochs=1,
            long_epochs=1,
            tries=(0.1, 10.0),
            seeds=(0, 1),
            precision="32-true",
        )
    )
    return out


def test_every_row_has_a_result_for_every_seed(whole):
    results = json.loads((whole / "results.json").read_text())
    trained = [r for r in results["rows"] if r["trained"]]
    assert len(trained) == 13
    assert all(len(r["epe_mm"]["values"]) == 2 for r in trained)
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
        "untouched-distilled",
        "prior-permuted",
    }
    tried = {r["name"]: len(r["tried"]["validation_epe_mm"]) for r in trained if r["tried"]}
    # the same number of tries for all
    assert set(tried.values()) == {2}
    assert "l2" in tried
    assert "prior-p2" in tried


def test_rows_start_from_the_same_theta_0(whole):
    theta_0 = load_file(whole / "student/theta_0.safetensors")
    prior = Prior.load(whole / "distill/prior_p2.safetensors")
    net = distill.build(whole / "student", 3, "theta_0")[0]
    for name, t in net.state_dict().items():
        assert torch.equal(t, theta_0[name])
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior.check_start(net)
    assert prior.manifest["loss_units"].startswith("cm^2")
    assert prior.rms() > 0
    assert Prior.load(whole / "distill/prior_p1.safetensors").p == 1


def test_finished_stages_are_reused(whole):
    config = json.loads((whole / "config.json").read_text())
    config["augmentation"] = Augmentation(**config["augmentation"])
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("*.safetensors")}
    for key in ("seeds", "tries"):
        config[key] = tuple(config[key])
    experiment.run(experiment.Experiment(out=str(whole), **config))
    assert before == {p: p.stat().st_mtime_ns for p in whole.rglob("*.safetensors")}


def test_another_setting_in_the_same_folder_is_refused(whole):
    with pytest.raises(
        InputError,
        match=r"config.json: this folder holds a run with epochs = 1, the command asks for 2",
    ):
        teacher.run(
            teacher.Teacher(
                **common(whole)
                | NET
                | SMALL
                | {
                    "epochs": 2,
                    "out": str(whole / "teacher"),
                    "lr": 1e-3,
                    "schedule": "cosine",
                    "augmentation": experiment.SOURCE_AUGMENTATION,
                }
            )
        )


def common(whole):
    return {"data": str(whole / "data/source"), "test": str(whole / "data/source-test")}


# ---- killed and resumed --------------------------------------------------------------------------
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
    prior = ["--prior", f"{whole}/distill/prior_p2.safetensors", "--sigma", "0.1"]
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
            "13",
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
    code = "from cmkg.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"CMKG_CHECKPOINT_SECONDS": "0", "OMP_NUM_THREADS": "2"} | environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("stage", ["teacher", "student", "distill", "target"])
def test_killed_and_resumed_is_bit_for_bit_unbroken(whole, tmp_path, stage):
    for name in ("unbroken", "killed"):
        (tmp_path / name).mkdir()
    unbroken = cmkg(stage_commands(whole, tmp_path / "unbroken")[stage])
    assert unbroken.wait(300) == 0, unbroken.stderr.read()
    command = stage_commands(whole, tmp_path / "killed")[stage]
    killed, checkpoint = cmkg(command), tmp_path / "killed/run/checkpoint.pt"
    deadline = time.time() + 120
    while not checkpoint.exists() and killed.poll() is None and time.time() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert checkpoint.exists()
    assert not (tmp_path / "killed/run/result.json").exists()
    resumed = cmkg(command)
    assert resumed.wait(300) == 0
    assert "resumes at step" in resumed.stderr.read()
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


@pytest.mark.slow
def test_the_whole_run_killed_again_and_again_is_the_unbroken_one(whole, tmp_path):
    settings = json.loads((whole / "config.json").read_text())
    flags = ["--target-lr", str(settings["target_lr"])]
    for key in (
        "source_count",
        "target_frames",
        "backbone",
        "width",
        "px",
        "batch",
        "teacher_epochs",
        "student_epochs",
        "distill_epochs",
        "target_epochs",
        "precision",
    ):
        flags += [f"--{key.replace('_', '-')}", str(settings[key])]
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


# ---- the user's mistakes -------------------------------------------------------------------------
def says(arguments, **environment):
    process = cmkg(arguments, **environment)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert "Traceback" not in err, err
    return err


def test_mistakes_are_one_sentence_and_exit_code_2(whole, tmp_path):
    assert "--epochs: expected a positive number, got 0" in says(["teacher", "--epochs", "0"])
    assert "--seed: expected a number from 0, got -1" in says(["render", "--seed", "-1"])
    assert "--seeds: expected different numbers from 0" in says(
        ["run", "demo", "--seeds", "1", "1"]
    )
    assert "expected a packed set" in says(
        ["teacher", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "a")]
    )
    assert "config.json: expected a file of a finished run" in says(
        [
            "target",
            "--data",
            f"{whole}/data/target",
            "--test",
            f"{whole}/data/target-test",
            "--student",
            str(tmp_path),
            "--out",
            str(tmp_path / "b"),
        ]
    )
    assert "got none" in says(["run", "real", "--out", str(tmp_path / "e")])
    assert "pose_gt.mat: no such file" in says(
        [
            "run",
            "real",
            "--real-hands",
            str(tmp_path),
            "--out",
            str(tmp_path / "c"),
            "--source-count",
            "4",
            "--px",
            "16",
        ]
    )
    assert "backbone is one of resnet10" in says(
        [
            "student",
            *sum(([f"--{k}", v] for k, v in common(whole).items()), []),
            "--backbone",
            "vgg",
            "--out",
            str(tmp_path / "d"),
        ]
    )


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


def test_a_loss_that_is_not_finite_ends_in_a_sentence(whole, tmp_path):
    command = stage_commands(whole, tmp_path)["student"]
    assert "expected a finite number" in says([*command, "--lr", "1e30"])
    assert not (tmp_path / "run/student.safetensors").exists()


# ---- stages alone --------------------------------------------------------------------------------
def test_evaluate_gives_the_result_of_the_run_again(whole, tmp_path):
    again = evaluate.run(
        evaluate.Evaluate(
            f"{whole}/target/none/seed-0/target.safetensors",
            f"{whole}/data/target-test",
            str(tmp_path / "e"),
            f"{whole}/student",
            precision="32-true",
            convention=f"{whole}/data/target",
            turns_deg=experiment.Experiment().turns_deg,
        )
    )
    first = json.loads((whole / "target/none/seed-0/result.json").read_text())
    assert again["epe_mm"] == pytest.approx(first["epe_mm"], rel=1e-6)


def test_a_prior_of_another_network_is_refused(whole, tmp_path):
    wide = student.Student(
        **common(whole) | SMALL, backbone="resnet10", width=0.25, px=32, out=str(tmp_path / "wide")
    )
    student.run(wide)
    config = target.Target(
        data=f"{whole}/data/target",
        test=f"{whole}/data/target-test",
        student=str(tmp_path / "wide"),
        out=str(tmp_path / "t"),
        prior=f"{whole}/distill/prior_p2.safetensors",
        sigma=1.0,
        **SMALL,
    )
    with pytest.raises((InputError, ValueError), match="another network"):
        target.run(config)


def test_render_refuses_another_set(tmp_path):
    render.run(render.Render(out=str(tmp_path / "s"), count=4, px=16, workers=1))
    with pytest.raises(InputError, match="count = 4, asked for is 5"):
        render.run(render.Render(out=str(tmp_path / "s"), count=5, px=16, workers=1))


def test_a_prediction_is_the_mean_over_turned_pictures(whole):
    """Of a network that always answers the same, turns of -60 and 60 degrees leave the depth and
    half of x and y."""
    constant = torch.linspace(-1, 1, 63).view(1, 21, 3)

    class Constant(torch.nn.Module):
        def forward(self, x):
            return constant.expand(len(x), 21, 3)

    packed, fabric = Packed(whole / "data/target-test"), engine.launch("32-true")
    plain, turned = (
        predict(Constant(), packed, 32, fabric, turns_deg=t) for t in ((0.0,), (-60.0, 60.0))
    )
    expected = constant * torch.tensor([0.5, 0.5, 1.0])
    torch.testing.assert_close(turned[0], expected.expand_as(turned[0]))
    # the truth is that of the picture as it stands
    torch.testing.assert_close(turned[1:], plain[1:])
    assert torch.equal(plain[0], constant.expand_as(plain[0]))


# ---- the report ----------------------------------------------------------------------------------
def test_the_report_asks_nobody_and_draws_in_a_browser(whole, tmp_path):
    page = (whole / "report.html").read_text()
    loads = re.findall(
        r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)|url\(([^)]+)\)|@import|fetch\(""", page
    )
    # nothing is loaded from outside
    assert all((a or b).startswith(("data:", "#")) for a, b in loads), loads
    browser = (
        shutil.which("chromium")
        or shutil.which("google-chrome")
        or shutil.which("chromium-browser")
    )
    if not browser:
        pytest.skip("no browser here")
    shot = tmp_path / "page.png"
    subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--window-size=420,3000",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={shot}",
            f"file://{whole}/report.html",
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    import cv2

    image = cv2.imread(str(shot))
    assert image.shape[1] == 420
    assert image.std() > 10
    assert len(np.unique(image.reshape(-1, 3)[::97], axis=0)) > 50  # drawn, not blank


def test_students_and_priors_have_cards_and_are_given_away(whole, tmp_path):
    for folder in ("student", "distill", "target/none/seed-0"):
        card = (whole / folder / "README.md").read_text()
        assert "library_name: cmkg" in card, folder
        assert "| EPE, mm |" in card, folder
    assert "| fingerprint |" in (whole / "distill/prior_p2.md").read_text()
    export.run(
        export.Export(
            str(whole / "target/none/seed-0"), str(whole / "student"), str(tmp_path / "hub")
        )
    )
    from cmkg.hands.student import HandStudent

    given = HandStudent.from_pretrained(tmp_path / "hub")
    trained = load_file(whole / "target/none/seed-0/target.safetensors")
    assert all(torch.equal(t, trained[n]) for n, t in given.net.state_dict().items())
    with pytest.raises(InputError, match="expected a finished stage"):
        export.run(
            export.Export(str(whole / "data"), str(whole / "student"), str(tmp_path / "other"))
        )


def test_preflight_tells_its_verdicts(whole, tmp_path, capsys):
    config = preflight.Preflight(
        *(f"{whole}/data/{n}" for n in ("source", "source-test", "target", "target-test")),
        str(tmp_path / "p"),
        epochs=1,
        backbone="resnet10",
        width=0.125,
        px=32,
        batch=8,
        sigmas=(1.0,),
    )
    report = preflight.run(config)
    said = capsys.readouterr().out
    assert set(report["verdicts"]) == {"distillation", "transfer", "prior"}
    assert "a hint, not a result" in said
    assert 20 < report["numbers"]["student"] < 500
    assert report["numbers"]["phi_over_noise"] > 0
    assert preflight.run(config)["verdicts"].keys() == report["verdicts"].keys()  # read back


# ---- the study -----------------------------------------------------------------------------------
def test_the_study_runs_its_controls_on_a_finished_run(whole, tmp_path):
    names = (
        "none",
        "l2",
        "l2-to-distilled",
        "prior-no-teacher",
        "prior-l3",
        "fresh-prior",
        "early-none",
        "fisher-centred",
        "fine-tune-distilled",
        "prior-whole",
        "prior-from-theta-0",
        "prior-adam-two-checkpoints",
    )
    config = study.Study(
        base=str(whole),
        out=str(tmp_path / "study"),
        epochs=1,
        seeds=(0, 1),
        tries=(1.0,),
        only=names,
        precision="32-true",
    )
    study.run(config)
    found = json.loads((tmp_path / "study/study.json").read_text())
    assert [r["name"] for r in found["rows"]] == [
        "none",
        "l2",
        "fine-tune-distilled",
        "prior-no-teacher",
        "prior-l3",
        "prior-whole",
        "prior-from-theta-0",
        "prior-adam-two-checkpoints",
        "l2-to-distilled",
        "fresh-prior",
        "early-none",
        "fisher-centred",
    ]
    rows = {r["name"]: r for r in found["rows"]}
    against = rows["none"]["against"]["l2"]
    paired = np.array(rows["none"]["epe_mm"]["values"]) - rows["l2"]["epe_mm"]["values"]
    assert against["mean"] == pytest.approx(paired.mean())
    assert (
        paired.min() - 1e-9
        <= against["interval"][0]
        <= against["interval"][1]
        <= paired.max() + 1e-9
    )
    priors = [
        load_file(p)
        for p in (
            whole / "distill/prior_p2.safetensors",
            tmp_path / "study/no-teacher/prior_p2.safetensors",
            tmp_path / "study/l3/prior_p2.safetensors",
        )
    ]
    name = "phi/backbone.encoder.stages.0.layers.0.layer.0.convolution.weight"
    assert not torch.equal(priors[0][name], priors[1][name])
    assert not torch.equal(priors[0][name], priors[2][name])
    assert not (tmp_path / "study/split").exists()  # no row needs it
    # its two checkpoints' row needs its end, no row its phi
    assert (tmp_path / "study/adam/distilled.safetensors").exists()
    from_theta_0 = [
        Prior.load(tmp_path / "study" / p)
        for p in ("prior_from_theta_0.safetensors", "from-theta-0/prior_p2.safetensors")
    ]
    assert {p.manifest["fingerprint"] for p in from_theta_0} == {
        Prior.load(whole / "distill/prior_p2.safetensors").manifest["fingerprint"]
    }
    assert "against tuned ℓ²" in (tmp_path / "study/study.md").read_text()
    assert "ℓ², σ tuned" in (tmp_path / "study/study.svg").read_text()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.safetensors")}
    study.run(config)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.safetensors")}


def test_the_recipe_goes_on_from_the_wide_student_with_the_wide_hands_alongside(whole):
    wide = json.loads((whole / "wide/config.json").read_text())
    assert Path(wide["start"]) == whole / "continued/student.safetensors"
    assert Path(wide["data"]) == whole / "data/wide"
    for name, start, alongside in (
        ("recipe", "wide", str(whole / "data/wide")),
        ("fine-tune-student", "continued", ""),
    ):
        row = json.loads((row_folder(whole, name) / "seed-0/config.json").read_text())
        assert row["start"] == str(whole / start / "student.safetensors")
        assert row["alongside"] == alongside
    assert Packed(whole / "data/wide").meta["holds"]["wide"]
    assert not Packed(whole / "data/source").meta["holds"]["wide"]


def test_its_ingredients_and_their_report(whole, tmp_path):
    config = study.Study(
        base=str(whole),
        out=str(tmp_path / "parts"),
        part="ingredients",
        epochs=1,
        long_epochs=1,
        lookalikes=8,
        seeds=(0, 1),
        only=("fine-tune-student", "scale", "long-likes", "longer-source", "recipe"),
        precision="32-true",
    )
    study.run(config)
    found = json.loads((tmp_path / "parts/study.json").read_text())
    plain, recipe = found["rows"][0], found["rows"][-1]
    assert plain["against"] == {}
    assert recipe["against"]["fine-tune-student"]["share"] == pytest.approx(
        recipe["epe_mm"]["mean"] / plain["epe_mm"]["mean"] - 1
    )
    assert "against plain fine-tuning" in (tmp_path / "parts/study.md").read_text()
    (tmp_path / "parts/study.md").unlink()
    report.run(report.Report(str(tmp_path / "parts")))
    assert (tmp_path / "parts/study.md").exists()


def test_graded_targets_and_more_sources(whole, tmp_path):
    few = {"base": str(whole), "seeds": (0,), "tries": (1.0,), "precision": "32-true"}
    graded.run(
        graded.Graded(
            out=str(tmp_path / "graded"),
            sizes=(20,),
            shifts=("views",),
            test_frames=8,
            steps=2,
            rows=("none", "l2"),
            **few,
        )
    )
    cells = json.loads((tmp_path / "graded/cells.json").read_text())["cells"]
    assert [c["target"] for c in cells] == ["size-20", "shift-views"]
    assert all(len(c["rows"]) == 2 for c in cells)
    assert len(Packed(tmp_path / "graded/data/size-20/target")) == 20
    sources.run(
        sources.Sources(
            out=str(tmp_path / "sources"),
            source_seeds=(1,),
            epochs=1,
            rows=("none", "prior-p2"),
            **few,
        )
    )
    cells = {
        c["target"]: {r["name"]: r for r in c["rows"]}
        for c in json.loads((tmp_path / "sources/cells.json").read_text())["cells"]
    }
    assert set(cells["several"]) == {
        "prior-other",
        "merged-mean",
        "merged-precision",
        "merged-sign",
    }
    # another theta_0
    assert (
        cells["source-0"]["none"]["epe_mm"]["values"]
        != cells["source-1"]["none"]["epe_mm"]["values"]
    )
    mean, other, own = (
        Prior.load(p)
        for p in (
            tmp_path / "sources/several/stages/merged_mean.safetensors",
            tmp_path / "sources/several/stages/distill/prior_p2.safetensors",
            whole / "distill/prior_p2.safetensors",
        )
    )
    name = next(iter(mean.phi))
    assert torch.allclose(mean.phi[name], (other.phi[name] + own.phi[name]) / 2)


def test_the_regime_and_its_bounds(whole, tmp_path):
    config = regime.Regime(
        base=str(whole),
        out=str(tmp_path / "regime"),
        frames=20,
        steps=1,
        strengths=(1.0,),
        precision="32-true",
    )
    regime.run(config)
    found = json.loads((tmp_path / "regime/regime.json").read_text())
    rows = {r["label"]: r for r in found["carried"]["rows"]}
    assert rows["theta_0"]["cosine"] == 0
    assert rows["distilled"]["cosine"] == pytest.approx(1)
    assert 0 < rows["sizes"]["cosine"] < 1
    assert (
        rows["two checkpoints, from theta_0 on"]["cosine"]
        > rows["two checkpoints, from theta_0 on, permuted"]["cosine"]
    )
    assert found["alike"]["beta x 10"] > 0.99
    assert set(found["curves"]) >= {
        "none",
        "l2",
        "prior",
        "two checkpoints, decoupled",
    }
    before = (tmp_path / "regime/regime.json").stat().st_mtime_ns
    regime.run(config)
    assert (tmp_path / "regime/regime.json").stat().st_mtime_ns >= before


def test_one_persons_scale_uses_no_label_of_a_test_frame(whole, tmp_path):
    shutil.copytree(whole / "data/target-test", tmp_path / "bent")
    joints = np.load(tmp_path / "bent/joints_mm.npy")
    # annotators who place this joint elsewhere
    joints[:, 10] = joints[:, 9] + 1.3 * (joints[:, 10] - joints[:, 9])
    np.save(tmp_path / "bent/joints_mm.npy", joints)
    predicted = {}
    for scale in ("set", "frame"):
        for name, test in (("as it is", whole / "data/target-test"), ("bent", tmp_path / "bent")):
            out = tmp_path / f"{scale}-{name}"
            target.run(
                target.Target(
                    data=str(whole / "data/target"),
                    test=str(test),
                    out=str(out),
                    student=str(whole / "student"),
                    scale=scale,
                    **SMALL,
                )
            )
            arrays = np.load(out / "predictions.npz")
            predicted[scale, name] = arrays["prediction"] * arrays["scale_mm"][:, None, None]
    np.testing.assert_allclose(
        predicted["set", "as it is"], predicted["set", "bent"], rtol=1e-4, atol=1e-3
    )
    assert (
        np.abs(predicted["frame", "as it is"] / predicted["frame", "bent"] - 1 / 1.3).max() < 1e-3
    )


def test_alongside_joins_each_batch(whole, tmp_path):
    out = tmp_path / "joined"
    target.run(
        target.Target(
            data=str(whole / "data/target"),
            test=str(whole / "data/target-test"),
            out=str(out),
            student=str(whole / "student"),
            source=str(whole / "data/source"),
            start=str(whole / "distill/distilled.safetensors"),
            alongside=str(whole / "data/source"),
            **SMALL,
        )
    )
    alone = tmp_path / "alone"
    target.run(
        target.Target(
            data=str(whole / "data/target"),
            test=str(whole / "data/target-test"),
            out=str(alone),
            student=str(whole / "student"),
            source=str(whole / "data/source"),
            start=str(whole / "distill/distilled.safetensors"),
            **SMALL,
        )
    )
    a, b = (load_file(f / "target.safetensors") for f in (out, alone))
    assert any(not torch.equal(a[n], b[n]) for n in a)
