import pytest
import torch

from cmkg.hands.network.finder import (
    FINDER_PX,
    Finder,
    FinderMaps,
    finder_loss,
    finder_targets,
    peaks,
)

BOXES = [
    torch.tensor([[30.0, 40.0, 50.0, 0.6, -0.8], [100.0, 90.0, 20.0, 0.0, 1.0]]),
    torch.zeros(0, 5),
]


def certain(boxes):
    """Maps that say what the targets say."""
    target = finder_targets(boxes)
    return FinderMaps(20 * (target.centres - 0.9), target.size, target.towards)


def test_peaks_are_the_hands_that_the_targets_were_made_of():
    maps = certain(BOXES)
    first = peaks(maps.said(0), 0.3, 5)
    assert peaks(maps.said(1), 0.3, 5) == []
    assert len(first) == 2
    for found in first:
        x, y, side, right, down = BOXES[0][int(found.x > 60)].tolist()
        assert (found.x, found.y) == pytest.approx((x, y), abs=4.5)  # half a cell
        assert found.side == pytest.approx(side, rel=1e-4)
        assert found.towards == pytest.approx((right, down), abs=1e-5)
    assert len(peaks(maps.said(0), 0.3, 1)) == 1


def test_the_loss_is_least_at_the_targets():
    right = sum(finder_loss(certain(BOXES), BOXES).values())
    moved = [BOXES[0] + torch.tensor([16.0, 0, 0, 0, 0]), BOXES[1]]
    assert right < 0.1
    assert sum(finder_loss(certain(moved), BOXES).values()) > 5
    nothing = [torch.zeros(0, 5)] * 2
    assert all(torch.isfinite(v) for v in finder_loss(certain(BOXES), nothing).values())


def test_any_sides_that_are_multiples_of_32():
    maps = Finder().eval()(torch.zeros(2, 3, FINDER_PX, 96))
    assert maps.centres.shape == (2, 16, 12)
    assert maps.size.shape == (2, 16, 12)
    assert maps.towards.shape == (2, 2, 16, 12)
