"""Prior files on the command line, model cards, huggingface_hub's mixin from a folder."""

import numpy as np
import pytest
import torch

from cmkg.cards import card
from cmkg.errors import InputError
from cmkg.hub import SharedPrior
from cmkg.prior import Prior
from cmkg.recipes import priors

from .conftest import small_net


@pytest.fixture
def files(tmp_path):
    net = small_net(dtype=torch.float32)
    for i in range(2):
        prior = Prior.constant(net, 0.0, source=f"source {i}", alpha=1e-3).track_noise()
        for _ in range(4):
            prior.learn_([torch.randn_like(t) + 1 + i for t in prior.bind(net)], 0.1)
        prior.save(tmp_path / f"{i}.safetensors")
    return [str(tmp_path / f"{i}.safetensors") for i in range(2)]


def test_info_compare_merge_plot(files, tmp_path, capsys):
    priors.run(priors.Info(files[0]))
    said = capsys.readouterr().out
    assert "source         source 0" in said
    assert "phi / noise" in said
    assert "0.0.0.weight" in said
    priors.run(priors.Compare(files[0], files[0]))
    assert all(
        "1.000     100.0%          1" in line for line in capsys.readouterr().out.splitlines()[1:]
    )
    priors.run(priors.Compare(*files))
    assert "different initialisations" not in capsys.readouterr().out
    for how in ("mean", "precision", "sign"):
        priors.run(priors.Merge(tuple(files), str(tmp_path / f"{how}.safetensors"), how))
        assert Prior.load(tmp_path / f"{how}.safetensors").manifest["merged"] == how
    a, b = map(Prior.load, files)
    torch.testing.assert_close(
        Prior.load(tmp_path / "mean.safetensors").phi["2.weight"],
        (a.phi["2.weight"] + b.phi["2.weight"]) / 2,
    )
    priors.run(priors.Plot(files[0], str(tmp_path / "p.svg")))
    assert (tmp_path / "p.svg").read_text().startswith("<svg")
    with pytest.raises(InputError, match="at least two priors, got 1"):
        priors.run(priors.Merge((files[0],), "x"))
    Prior({"w": torch.zeros(1, 1)}).save(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no layer of the same name"):
        priors.run(priors.Compare(files[0], str(tmp_path / "other.safetensors")))


def test_a_prior_goes_through_the_mixin(files, tmp_path):
    prior = Prior.load(files[0])
    SharedPrior(prior).save_pretrained(tmp_path / "shared")
    again = SharedPrior.from_pretrained(tmp_path / "shared").prior
    assert all(torch.equal(again.phi[n], t) for n, t in prior.phi.items())
    assert again.manifest["source"] == "source 0"
    text = (tmp_path / "shared/README.md").read_text()
    assert text.startswith("---\nlibrary_name: cmkg\n")
    assert "| p | 2 |" in text


def test_a_card_leaves_out_what_is_not_known():
    text = card("A title", {"a_fact": 1, "nothing": "", "none": None, "zero": 0}, "About it.")
    assert "| a fact | 1 |" in text
    assert "nothing" not in text
    assert "none" not in text
    assert "| zero | 0 |" in text


def test_a_hand_student_goes_through_the_mixin(tmp_path):
    from cmkg.hands.student import HandStudent

    student = HandStudent("resnet10", 0.125, "integral", 2, 32)
    student.save_pretrained(tmp_path / "hand")
    again = HandStudent.from_pretrained(tmp_path / "hand")
    crops = np.random.default_rng(0).integers(0, 255, (3, 50, 50, 3), np.uint8)
    joints = again.joints_mm(crops, 33.0)
    assert again.px == 32
    assert joints.shape == (3, 21, 3)
    assert torch.equal(joints, student.joints_mm(crops, 33.0))
    assert joints[:, 0].abs().max() < 33 * 21  # the pooled part may move the wrist
