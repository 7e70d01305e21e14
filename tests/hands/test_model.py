"""Heads and heatmaps."""

import pytest
import torch

from cmkg.errors import InputError
from cmkg.hands.heatmaps import SPREAD, centre_of_mass, heatmap_loss
from cmkg.hands.model import pose_net


def test_the_heatmap_loss_is_a_loop_over_cells():
    g = torch.Generator().manual_seed(0)
    logits, uv = torch.randn(2, 3, 4, 5, generator=g), torch.rand(2, 3, 2, generator=g) - 0.5
    total = 0.0
    for b in range(2):
        for j in range(3):
            target = torch.zeros(4, 5)
            for row in range(4):
                for column in range(5):
                    x, y = -1 + (2 * column + 1) / 5, -1 + (2 * row + 1) / 4
                    d2 = (x - uv[b, j, 0]) ** 2 + (y - uv[b, j, 1]) ** 2
                    target[row, column] = torch.exp(-d2 / (2 * SPREAD**2))
            share = logits[b, j].exp() / logits[b, j].exp().sum()
            total -= (target / target.sum() * share.log()).sum() / 6
    assert float(heatmap_loss(logits, uv)) == pytest.approx(float(total), rel=1e-4)
    assert float(heatmap_loss(logits[:, :, :, :4].flatten(2), uv)) == pytest.approx(
        float(heatmap_loss(logits[:, :, :, :4], uv))
    )


def test_a_heatmap_moved_by_a_cell_moves_its_centre_by_a_cell():
    logits = torch.full((1, 1, 8, 8), -50.0)
    logits[0, 0, 3, 2] = 50.0
    centre, weights = centre_of_mass(logits)
    moved, _ = centre_of_mass(logits.roll((1, 2), (2, 3)))
    assert torch.allclose(moved - centre, torch.tensor([[[0.5, 0.25]]]), atol=1e-5)
    assert float(weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize("head", ["pooled", "integral"])
def test_joints_are_wrist_relative_numbers_and_follow_the_convention(head):
    net = pose_net("resnet10", 0.125, head=head, stem_stride=2).eval()
    x = torch.randn(2, 3, 32, 32)
    joints = net(x)
    net.convention.copy_(2 * torch.eye(21))
    assert joints.shape == (2, 21, 3)
    assert torch.allclose(net(x), 2 * joints)
    trained = net.train()(x)
    assert trained.shape == ((2, 21, 3) if head == "pooled" else (2, 21, 3 + 4 * 4))


def test_an_unknown_head_is_one_sentence():
    with pytest.raises(InputError, match="head is one of pooled, integral, got 'heat'"):
        pose_net(head="heat")
