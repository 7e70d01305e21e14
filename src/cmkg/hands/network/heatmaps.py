"""Heatmaps: where on the picture a joint is, as one distribution over cells.

The sides of a map are -1 and 1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SPREAD_CELLS = 0.6  # standard deviation of a target heatmap; at half a cell its centre is off


def cell_centres(
    height: int, width: int, device: torch.device | str | None = None
) -> Float[Tensor, "hw 2"]:
    """x and y of each cell's centre, row by row.

    >>> cell_centres(1, 2)
    tensor([[-0.5000,  0.0000],
            [ 0.5000,  0.0000]])
    """
    x, y = ((2 * torch.arange(n, device=device) + 1) / n - 1 for n in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(-1, 2)


def centre_of_mass(
    logits: Float[Tensor, "b 21 h w"],
) -> tuple[Float[Tensor, "b 21 2"], Float[Tensor, "b 21 hw"]]:
    """Soft-argmax (Sun et al., ECCV 2018; Eq. 4 there): centres, and the cells' weights."""
    weights = logits.flatten(2).softmax(2)
    height, width = (int(length) for length in logits.shape[2:])
    return weights @ cell_centres(height, width, logits.device), weights


def spread_of(logits: Float[Tensor, "b 21 h w"]) -> Float[Tensor, "b 21"]:
    """Standard deviation of each heatmap around its centre, of half the picture's side."""
    centres, weights = centre_of_mass(logits)
    height, width = (int(length) for length in logits.shape[2:])
    cells = cell_centres(height, width, logits.device)
    off = (cells - centres[:, :, None]).square().sum(3)
    return (weights * off).sum(2).clamp_min(1e-8).sqrt()


def target_heatmaps(
    uv: Float[Tensor, "b 21 2"], height: int, width: int
) -> Float[Tensor, "b 21 hw"]:
    """Gaussians around the joints, of SPREAD_CELLS cells: their centres of mass are the joints.

    Each sums to 1; of a joint far outside the box to 0.
    """
    cell = uv.new_tensor((2 / width, 2 / height))
    off = (uv[:, :, None] - cell_centres(height, width, uv.device)) / (SPREAD_CELLS * cell)
    target = (-off.square().sum(3) / 2).exp()
    return target / (target.sum(2, keepdim=True) + 1e-8)


def heatmap_loss(
    logits: Float[Tensor, "b 21 h w"], uv: Float[Tensor, "b 21 2"]
) -> Float[Tensor, ""]:
    """Cross-entropy between heatmaps and Gaussians around the joints.

    Mean over the batch and the joints. A joint far outside the box counts nothing.
    """
    height, width = (int(length) for length in logits.shape[2:])
    target = target_heatmaps(uv, height, width)
    return -(target * logits.flatten(2).log_softmax(2)).sum(2).mean()
