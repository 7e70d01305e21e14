import pytest
import torch

from cmkg.hands.network.heatmaps import (
    SPREAD_CELLS,
    cell_centres,
    centre_of_mass,
    heatmap_loss,
    target_heatmaps,
)


def test_the_heatmap_loss_is_a_loop_over_cells():
    g = torch.Generator().manual_seed(0)
    logits, uv = torch.randn(2, 21, 4, 5, generator=g), torch.rand(2, 21, 2, generator=g) - 0.5
    total = 0.0
    for b in range(2):
        for j in range(21):
            target = torch.zeros(4, 5)
            for row in range(4):
                for column in range(5):
                    x, y = -1 + (2 * column + 1) / 5, -1 + (2 * row + 1) / 4
                    d2 = ((x - uv[b, j, 0]) * 5 / 2) ** 2 + ((y - uv[b, j, 1]) * 4 / 2) ** 2
                    target[row, column] = torch.exp(-d2 / (2 * SPREAD_CELLS**2))
            share = logits[b, j].exp() / logits[b, j].exp().sum()
            total -= (target / target.sum() * share.log()).sum() / 42
    assert float(heatmap_loss(logits, uv)) == pytest.approx(float(total), rel=1e-4)


def test_a_heatmap_moved_by_a_cell_moves_its_centre_by_a_cell():
    logits = torch.full((1, 21, 8, 8), -50.0)
    logits[:, :, 3, 2] = 50.0
    centre, weights = centre_of_mass(logits)
    moved, _ = centre_of_mass(logits.roll((1, 2), (2, 3)))
    assert torch.allclose(moved - centre, torch.tensor([0.5, 0.25]), atol=1e-5)
    assert float(weights.sum()) == pytest.approx(21)


BOX_MM = 250.0


@pytest.mark.parametrize("cells", [6, 8, 12, 16, 32])
def test_the_centre_of_a_target_is_the_joint_on_every_map_size(cells):
    """96, 64, 128 and 256 pixels at stem strides of 4 and 2."""
    inner = 1 - 3 / cells  # a cell and a half from the border, which cuts the Gaussian off
    uv = inner * (2 * torch.rand(64, 21, 2, generator=torch.Generator().manual_seed(0)) - 1)
    centres = target_heatmaps(uv, cells, cells) @ cell_centres(cells, cells)
    assert float((centres - uv).norm(dim=2).max()) * BOX_MM / 2 < 0.3
