import pytest
import torch

from cmkg.errors import InputError
from cmkg.hands.network.posenet import NetConfig, pose_net


@pytest.mark.parametrize("head", ["pooled", "integral"])
def test_joints_are_wrist_relative_numbers_and_follow_the_convention(head):
    net = pose_net(NetConfig("resnet10", 0.125, head, 2)).eval()
    x = torch.randn(2, 3, 32, 32)
    joints = net(x).joints
    net.convention.copy_(2 * torch.eye(21))
    assert joints.shape == (2, 21, 3)
    assert torch.allclose(net(x).joints, 2 * joints)
    for pose in (net(x), net.train()(x)):  # the same kind of answer in evaluation and training
        assert pose.joints.shape == (2, 21, 3)
        if head == "pooled":
            assert pose.uv is None
            assert pose.heatmaps is None
        else:
            assert pose.uv.shape == (2, 21, 2)
            assert pose.heatmaps.shape == (2, 21, 4, 4)


def test_an_unknown_backbone_and_a_width_without_channels_are_one_sentence():
    with pytest.raises(InputError, match="backbone is one of resnet10, .*, got 'vgg'"):
        NetConfig(backbone="vgg")
    with pytest.raises(InputError, match="--width: expected 0.015625 to 16"):
        NetConfig(width=0.01)
