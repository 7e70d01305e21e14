import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cmkg.errors import InputError
from cmkg.hands.commands import distill
from cmkg.hands.datasets.folder import Folder
from cmkg.hands.datasets.packed.labelled_set import open_frames, open_source
from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.inference.unlabelled import assumed_joints
from cmkg.hands.network.augment import NONE
from cmkg.hands.network.loader import Loader
from cmkg.hands.network.pose_loss import PoseLoss
from cmkg.hands.network.posenet import NetConfig, pose_net
from cmkg.hands.network.predictions import predict
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.stages.finished_run import FinishedRun
from cmkg.hands.synthesis.rendered import Rendered
from cmkg.prior.prior import Prior, fingerprint
from cmkg.runtime.distributed import launch
from tests.hands.runs import SMALL, common, settings


def test_the_students_path_does_not_depend_on_phi(whole, tmp_path):
    shared = {**common(whole), **SMALL}
    folders = {"student": str(whole / "student"), "teacher": str(whole / "teacher")}
    weights = {}
    for name, exponents in (("alone", ()), ("both", (1, 2))):
        out = str(tmp_path / name)
        distill.run(settings(distill.Distill, **shared, **folders, exponents=exponents, out=out))
        weights[name] = load_file(tmp_path / name / "distilled.safetensors")
    for name, alone in weights["alone"].items():
        assert torch.equal(weights["both"][name], alone), name
    priors = {p: Prior.load(tmp_path / f"both/prior_p{p}.safetensors") for p in (1, 2)}
    theta_0 = load_file(whole / "student/theta_0.safetensors")
    for p, prior in priors.items():
        assert (prior.p, prior.manifest["iterations"]) == (p, 48 // 8)
        assert prior.rms() > 0
        assert prior.variance is not None
        own = {name: theta_0[name] for name in theta_0 if name in weights["both"]}
        assert set(prior.phi) <= set(own)
        assert prior.manifest["fingerprint"] != fingerprint(own | {"0": torch.zeros(1)})
        assert prior.manifest["source"] == "source"  # a name, no path of this machine
    assert not (tmp_path / "alone/prior_p2.safetensors").exists()


def test_every_criterion_and_control_runs_and_logs_its_terms(whole, tmp_path):
    shared = {**common(whole), **SMALL, "exponents": (), "labels": 16, "unlabelled": 0.75}
    shared |= {"student": str(whole / "student"), "start": "theta_0"}
    depth, rgb = str(whole / "teacher"), str(whole / "student")
    terms = {}
    for name, changes in {
        "outputs": {"criterion": distill.CriterionConfig("outputs")},
        "features": {"criterion": distill.CriterionConfig("features")},
        "both": {"criterion": distill.CriterionConfig("both", fading=True)},
        "twin": {"criterion": distill.CriterionConfig("outputs"), "teacher": rgb},
        "shuffled": {"criterion": distill.CriterionConfig("outputs"), "shuffled": True},
        "alone": {"use_teacher": False},
    }.items():
        out = tmp_path / name
        own = {"teacher": depth, "out": str(out)} | changes
        distill.run(settings(distill.Distill, **shared | own))
        line = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        terms[name] = set(line) & {"regression", "outputs", "features", "activation"}
    card = (tmp_path / "twin/README.md").read_text()
    assert "distilled from rgb" in card.replace("\n", " ")
    assert terms["outputs"] == terms["twin"] == terms["shuffled"] == {"regression", "outputs"}
    assert terms["features"] == {"regression", "features"}
    assert terms["both"] == {"regression", "outputs", "features"}
    assert terms["alone"] == {"regression"}
    weights = [load_file(tmp_path / name / "distilled.safetensors") for name in terms]
    assert len({float(one["head.pooled.weight"].sum()) for one in weights}) == len(terms)


def test_a_teacher_of_no_known_modality_is_one_sentence(whole):
    with pytest.raises(
        InputError, match="expected a teacher's or a student's run, with 'modality'"
    ):
        FinishedRun(whole / "depth").modality  # noqa: B018


def test_a_kept_answer_is_the_living_teachers(whole, tmp_path):
    """Without augmentation nothing turns: both ways are one training."""
    shared = {**common(whole), **SMALL, "labels": 16, "unlabelled": 0.75, "exponents": (2,)}
    shared |= {"student": str(whole / "student"), "teacher": str(whole / "teacher")}
    shared |= {"criterion": distill.CriterionConfig("outputs"), "augmentation": NONE}
    for name, cached in (("live", False), ("kept", True)):
        own = {"cached": cached, "out": str(tmp_path / name)}
        distill.run(settings(distill.Distill, **shared, **own))
    a, b = (
        json.loads((tmp_path / f"{name}/metrics.jsonl").read_text().splitlines()[-1])
        for name in ("live", "kept")
    )
    for term in ("regression", "outputs", "outer_0"):
        assert b[term] == pytest.approx(a[term], rel=1e-3), term
    assert (tmp_path / "kept/answers.npz").exists()
    with pytest.raises(InputError, match="--cached: it keeps a teacher's answers"):
        settings(distill.Distill, cached=True)
    with pytest.raises(InputError, match="--cached: not beside --extra, --split or --inner-steps"):
        settings(
            distill.Distill, cached=True, criterion=distill.CriterionConfig("outputs"), split=True
        )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"unlabelled": 1.0}, "--unlabelled: expected a share of the batch from 0 to below 1"),
        ({"unlabelled": 0.5, "labels": 4, "split": True}, "--split beside --unlabelled"),
        ({"shuffled": True, "use_teacher": False}, "--shuffled beside --no-use-teacher"),
        (
            {"criterion": distill.CriterionConfig("both"), "optimizer_state": "a.pt"},
            "--optimizer-state beside --criterion both",
        ),
    ],
)
def test_settings_that_would_not_act_are_refused(flags, said):
    with pytest.raises(InputError, match=said):
        settings(distill.Distill, **flags)


def test_pairs_without_a_label_are_asked_for_or_told_of(made_sets, tmp_path, capsys):
    folder = Folder(str(made_sets["folder"]), "all", 24, locate=assumed_joints)
    some = pack(folder, tmp_path / "some", workers=1)
    all_have = pack(Rendered(SceneConfig(px=24), 4), tmp_path / "all", workers=1)
    with pytest.raises(InputError, match="--unlabelled: every sample has a label; give --labels"):
        distill.expect_unlabelled(settings(distill.Distill, unlabelled=0.5), all_have)
    distill.expect_unlabelled(settings(distill.Distill, unlabelled=0.5), some)
    assert not capsys.readouterr().err
    distill.expect_unlabelled(settings(distill.Distill), some)
    assert "samples without a label are left out; --unlabelled 0.75" in capsys.readouterr().err
    # what is assumed of them is never trained on
    have = np.flatnonzero(some.labels())
    loader = Loader(open_frames(some), 16)
    np.testing.assert_array_equal(loader.data.with_label, have)
    drawn = loader.training_batch(0, 0, len(have), launch("32-true"))
    torch.testing.assert_close(
        drawn.scale_mm.sort().values, loader.fetch(have).scale_mm.sort().values
    )
    mixed = Loader(open_frames(some), 16, unlabelled=0.5).training_batch(0, 0, 4, launch("32-true"))
    assert mixed.labelled.tolist() == [True, True, False, False]
    with pytest.raises(InputError, match="have no label; they can be distilled from, not scored"):
        predict(torch.nn.Identity(), loader, launch("32-true"))
    with pytest.raises(InputError, match=f"at most the {len(have)} labelled samples"):
        open_source(some.folder, "", len(some))


def test_features_of_a_wider_teacher_are_projected_and_depend_on_the_seed_alone():
    student, teacher = (pose_net(NetConfig(width=w, px=32), c) for w, c in ((0.125, 3), (0.25, 1)))
    net, loss = NetConfig(px=32), PoseLoss(30.0, 100.0)
    found = []
    for stream in (1, 2):
        torch.manual_seed(stream)
        kind = distill.CriterionConfig("features")
        distiller = distill.distiller_of(kind, student, teacher, net, loss, seed=0)
        found.append(distiller.criterion.projections[0].weight)
    assert found[0].shape[:2] == (16, 8)
    assert torch.equal(found[0], found[1])
