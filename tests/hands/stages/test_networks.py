import numpy as np
import pytest
import torch

from cmkg.errors import InputError
from cmkg.hands.datasets.packed import Packed
from cmkg.hands.stages.fitting import convention_matrix
from cmkg.hands.stages.networks import load_network, load_start, read_net_config


def test_the_network_of_a_folder_that_is_no_run_is_one_sentence(whole, tmp_path):
    assert read_net_config(whole / "student").backbone == "resnet10"
    with pytest.raises(InputError, match=r"config.json"):
        read_net_config(tmp_path)
    (tmp_path / "config.json").write_text('{"net": {"depth": 3}}')
    with pytest.raises(InputError, match="expected the settings of NetConfig, found 'depth'"):
        read_net_config(tmp_path)


def test_trained_weights_speak_the_targets_convention(whole):
    target = Packed(whole / "data/target")
    weights = whole / "all/student.safetensors"
    own = load_network(whole / "student", "rgb", "../all/student").model.eval()
    moved = load_start(weights, whole / "student", whole / "data/source", target).model.eval()
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 32, 32))).float()
    with torch.no_grad():
        expected = convention_matrix(Packed(whole / "data/source"), target) @ own(x).joints
        torch.testing.assert_close(moved(x).joints, expected, rtol=1e-4, atol=1e-4)
    theta_0 = load_start("", whole / "student", whole / "data/source", target).model
    assert torch.equal(theta_0.convention, own.convention)  # untrained: it speaks none
