import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cmkg.errors import InputError
from cmkg.hands.commands import evaluate, target
from cmkg.hands.commands import student as source
from cmkg.hands.network.posenet import NetConfig
from tests.hands.runs import NET, SMALL, common, replace_array, settings


def test_a_prior_of_another_network_is_refused(whole, tmp_path):
    wide = settings(
        source.SETTINGS,
        **common(whole) | SMALL,
        backbone="resnet10",
        width=0.25,
        px=32,
        out=str(tmp_path / "wide"),
    )
    source.run(wide)
    config = settings(
        target.Target,
        data=f"{whole}/data/target",
        test=f"{whole}/data/target-test",
        student=str(tmp_path / "wide"),
        out=str(tmp_path / "t"),
        prior=f"{whole}/depth/prior_p2.safetensors",
        sigma=1.0,
        **SMALL,
    )
    with pytest.raises((InputError, ValueError), match="another network"):
        target.run(config)


def test_one_persons_scale_uses_no_label_of_a_test_frame(whole, tmp_path):
    shutil.copytree(whole / "data/target-test", tmp_path / "bent")
    joints = np.load(tmp_path / "bent/joints_mm.npy")
    # annotators who place this joint elsewhere
    joints[:, 10] = joints[:, 9] + 1.3 * (joints[:, 10] - joints[:, 9])
    replace_array(tmp_path / "bent", "joints_mm", joints)
    predicted = {}
    for scale in ("set", "frame"):
        for name, test in (("as it is", whole / "data/target-test"), ("bent", tmp_path / "bent")):
            out = tmp_path / f"{scale}-{name}"
            target.run(
                settings(
                    target.Target,
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
    # its unit travels with its weights: it scores the same again, and goes on in either unit
    weights = str(tmp_path / "set-as it is/target.safetensors")
    shared = {"student": str(whole / "student"), "test": str(whole / "data/target-test")}
    again = evaluate.run(
        settings(
            evaluate.Evaluate,
            weights=weights,
            data=shared["test"],
            convention=str(whole / "data/target"),
            student=shared["student"],
            out=str(tmp_path / "again"),
            precision="32-true",
        )
    )
    first = json.loads((tmp_path / "set-as it is/result.json").read_text())
    assert again["epe_mm"] == pytest.approx(first["epe_mm"], rel=1e-5)
    on = settings(
        target.Target,
        data=str(whole / "data/target"),
        source=str(whole / "data/target"),
        start=weights,
        out=str(tmp_path / "on"),
        **shared | SMALL | {"epochs": 0},
    )
    # every frame of this person has the same bone: nothing changes but the unit
    assert target.run(on)["epe_mm"] == pytest.approx(first["epe_mm"], rel=1e-4)
    kept = load_file(tmp_path / "on/target.safetensors")
    assert float(kept["unit_mm"]) == 0


def test_alongside_joins_each_batch(whole, tmp_path):
    out, alone = tmp_path / "joined", tmp_path / "alone"
    for folder, alongside in ((out, str(whole / "data/source")), (alone, "")):
        target.run(
            settings(
                target.Target,
                data=str(whole / "data/target"),
                test=str(whole / "data/target-test"),
                out=str(folder),
                student=str(whole / "student"),
                source=str(whole / "data/source"),
                start=str(whole / "depth/distilled.safetensors"),
                alongside=alongside,
                **SMALL,
            )
        )
    a, b = (load_file(f / "target.safetensors") for f in (out, alone))
    assert any(not torch.equal(a[n], b[n]) for n in a)


def test_plain_strengths_hold_weights_or_all_parameters(unchecked):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    for parameters, names in (
        ("weights", {"0.weight"}),
        ("all", set(dict(net.named_parameters()))),
    ):
        regulariser = target.Regulariser(sigma=0.5, parameters=parameters)
        prior = target.load_regulariser(target.Target(regulariser=regulariser), net, None)
        assert set(prior.phi) == names
        assert prior.rms() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"alongside_labels": 4}, "give --alongside, their set"),
        (
            {"alongside": "x", "alongside_labels": 4, "alongside_answers": "y"},
            "answers take all labels' place",
        ),
    ],
)
def test_settings_alongside_that_would_not_act_are_refused(flags, said):
    with pytest.raises(InputError, match=said):
        settings(target.Target, **flags)


def test_answers_of_another_set_and_a_strength_of_no_prior_are_refused(whole, unchecked):
    config = settings(
        target.Target,
        alongside=f"{whole}/data/target-test",
        alongside_answers=f"{whole}/depth/answers.npz",
    )
    with pytest.raises(InputError, match="expected finite answers on 24 samples, found"):
        target.alongside_loader(config, NetConfig(px=32), torch.device("cpu"))
    config = settings(target.Target, per_layer=True)
    with pytest.raises(InputError, match="--per-layer: it is of a prior's strength"):
        target.load_regulariser(config, None, None)


def test_a_sources_stage_refuses_a_students_weights_in_a_sets_bone(whole, tmp_path):
    theta = load_file(whole / "student/student.safetensors")
    theta["unit_mm"] = torch.tensor(30.0)
    save_file(theta, tmp_path / "w.safetensors")
    config = settings(
        source.SETTINGS,
        **common(whole) | SMALL | NET,
        start=str(tmp_path / "w.safetensors"),
        out=str(tmp_path / "s"),
    )
    with pytest.raises(InputError, match="were trained with --scale set"):
        source.run(config)
