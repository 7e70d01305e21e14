import pytest
import torch

from cmkg.errors import InputError
from cmkg.hands.network.heatmaps import heatmap_loss
from cmkg.hands.network.pose import Pose
from cmkg.hands.network.pose_loss import PoseLoss, describe_unit, loss_of
from cmkg.hands.network.posenet import NetConfig


def test_it_is_eq_1_in_square_centimetres_of_the_mean_hand():
    torch.manual_seed(0)
    ours, labels = torch.randn(3, 21, 3), torch.randn(3, 21, 3)
    loop = 0.0
    for sample in range(3):
        apart_cm = 3.0 * (ours[sample] - labels[sample])  # a bone of 30 mm
        loop += sum(float(joint @ joint) for joint in apart_cm) / 3
    value = PoseLoss(30.0, 0.0)(Pose(ours), Pose(labels))
    assert float(value) == pytest.approx(loop)
    assert float(PoseLoss(60.0, 0.0)(Pose(ours), Pose(labels))) == pytest.approx(4 * float(value))


def test_units_and_the_mean_are_factors(unchecked):
    torch.manual_seed(0)
    ours, labels = Pose(torch.randn(3, 21, 3)), Pose(torch.randn(3, 21, 3))
    cm = float(PoseLoss(30.0, 0.0)(ours, labels))
    for unit, ratio in (("mm", 1e2), ("m", 1e-4), ("bone", 1 / 9)):
        assert float(PoseLoss(30.0, 0.0, unit)(ours, labels)) == pytest.approx(ratio * cm)
        mean = loss_of(NetConfig(loss_unit=unit, loss_mean=True), 30.0)
        assert float(mean(ours, labels)) == pytest.approx(ratio * cm / 63)
    assert describe_unit(NetConfig(loss_unit="m")) == "m^2 of the set's mean hand"
    with pytest.raises(InputError, match="--loss-unit: expected one of mm, cm, m, bone, got 'km'"):
        NetConfig(loss_unit="km")


def test_heatmaps_count_where_a_network_has_them():
    torch.manual_seed(0)
    labels = Pose(torch.randn(2, 21, 3), torch.rand(2, 21, 2) - 0.5)
    maps = torch.randn(2, 21, 4, 4)
    plain = PoseLoss(30.0, 7.0)(Pose(labels.joints + 0.1), labels)
    whole = PoseLoss(30.0, 7.0)(Pose(labels.joints + 0.1, labels.uv, maps), labels)
    assert whole - plain == pytest.approx(7 * float(heatmap_loss(maps, labels.uv)), rel=1e-5)
    other = PoseLoss(30.0, 7.0, "m")(Pose(labels.joints + 0.1, labels.uv, maps), labels)
    assert float(other) == pytest.approx(1e-4 * float(whole))  # of the same weight in any unit
