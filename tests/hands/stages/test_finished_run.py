import numpy as np
import pytest
import torch

from cmkg.errors import InputError
from cmkg.hands.datasets.packed.format import Packed
from cmkg.hands.network.loader import convention_matrix
from cmkg.hands.stages.finished_run import FinishedRun, load_start


def test_the_network_of_a_folder_that_is_no_run_is_one_sentence(whole, tmp_path):
    assert FinishedRun(whole / "student").net.backbone == "resnet10"
    with pytest.raises(InputError, match=r"config.json"):
        FinishedRun(tmp_path).net  # noqa: B018
    (tmp_path / "config.json").write_text('{"net": {"depth": 3}}')
    with pytest.raises(InputError, match="expected the settings of NetConfig, found 'depth'"):
        FinishedRun(tmp_path).net  # noqa: B018


def test_trained_weights_speak_the_targets_convention(whole):
    target = Packed(whole / "data/target")
    weights, student = whole / "all/student.safetensors", FinishedRun(whole / "student")
    own = FinishedRun(whole / "all").load("student").eval()
    moved = load_start(weights, student, whole / "data/source", target).model.eval()
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 32, 32))).float()
    with torch.no_grad():
        expected = convention_matrix(Packed(whole / "data/source"), target) @ own(x).joints
        torch.testing.assert_close(moved(x).joints, expected, rtol=1e-4, atol=1e-4)
    theta_0 = load_start("", student, whole / "data/source", target).model
    assert torch.equal(theta_0.convention, own.convention)  # untrained: it speaks none
