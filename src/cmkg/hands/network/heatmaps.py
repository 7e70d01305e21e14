"""Heatmaps: the position of a joint on the picture, as a distribution over cells.

Map coordinates range from -1 to 1.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SPREAD_CELLS = 0.6  # standard deviation of a target heatmap; at 0.5 its center is inaccurate


def cell_centres(
    height: int, width: int, device: torch.device | str | None = None
) -> Float[Tensor, "hw 2"]:
    """Returns x and y of each cell's center, row by row.

    >>> cell_centres(1, 2)
    tensor([[-0.5000,  0.0000],
            [ 0.5000,  0.0000]])
    """
    x, y = ((2 * torch.arange(n, device=device) + 1) / n - 1 for n in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(-1, 2)


def centre_of_mass(
    logits: Float[Tensor, "b 21 h w"],
) -> tuple[Float[Tensor, "b 21 2"], Float[Tensor, "b 21 hw"]]:
    """Soft-argmax (Sun et al., ECCV 2018, Eq. 4): returns the centers and the cells' weights."""
    weights = logits.flatten(2).softmax(2)
    height, width = (int(length) for length in logits.shape[2:])
    return weights @ cell_centres(height, width, logits.device), weights


def spread_of(logits: Float[Tensor, "b 21 h w"]) -> Float[Tensor, "b 21"]:
    """Standard deviation of each heatmap around its center, in units of half the picture's side."""
    centres, weights = centre_of_mass(logits)
    height, width = (int(length) for length in logits.shape[2:])
    cells = cell_centres(height, width, logits.device)
    off = (cells - centres[:, :, None]).square().sum(3)
    return (weights * off).sum(2).clamp_min(1e-8).sqrt()


def target_heatmaps(
    uv: Float[Tensor, "b 21 2"], height: int, width: int
) -> Float[Tensor, "b 21 hw"]:
    """Gaussians of SPREAD_CELLS cells whose centers of mass are the joints.

    Each sums to 1, or to 0 for a joint far outside the box.
    """
    cell = uv.new_tensor((2 / width, 2 / height))
    off = (uv[:, :, None] - cell_centres(height, width, uv.device)) / (SPREAD_CELLS * cell)
    target = (-off.square().sum(3) / 2).exp()
    return target / (target.sum(2, keepdim=True) + 1e-8)


def heatmap_loss(
    logits: Float[Tensor, "b 21 h w"], uv: Float[Tensor, "b 21 2"]
) -> Float[Tensor, ""]:
    """Cross-entropy between heatmaps and Gaussians around the joints.

    It is averaged over the batch and the joints. A joint far outside the box contributes 0.
    """
    height, width = (int(length) for length in logits.shape[2:])
    target = target_heatmaps(uv, height, width)
    return -(target * logits.flatten(2).log_softmax(2)).sum(2).mean()
