"""Heatmaps: where on the picture a joint is, as one distribution over cells. The sides of a map
are -1 and 1."""

import torch

SPREAD = 0.12  # standard deviation of a target heatmap, of half the box: half a cell at 8 x 8


def cell_centres(height, width, device=None):
    """(H * W, 2): x and y of each cell's centre, row by row.

    >>> cell_centres(1, 2)
    tensor([[-0.5000,  0.0000],
            [ 0.5000,  0.0000]])
    """
    x, y = ((2 * torch.arange(n, device=device) + 1) / n - 1 for n in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(-1, 2)


def centre_of_mass(logits):
    """Soft-argmax (Sun et al., ECCV 2018; Eq. 4 there). logits (B, 21, H, W) -> (B, 21, 2) and
    weights (B, 21, H * W)."""
    weights = logits.flatten(2).softmax(2)
    return weights @ cell_centres(*logits.shape[2:], logits.device), weights


def heatmap_loss(logits, uv):
    """Cross-entropy between heatmaps and Gaussians around the joints; mean over the batch and the
    joints.

    logits (B, 21, H, W) or, of a square map, (B, 21, H * W); uv (B, 21, 2). A joint far outside
    the box counts nothing.
    """
    if logits.dim() == 3:
        side = round(logits.shape[2] ** 0.5)
        logits = logits.unflatten(2, (side, side))
    to_cell = uv[:, :, None] - cell_centres(*logits.shape[2:], logits.device)
    target = (-to_cell.square().sum(3) / (2 * SPREAD**2)).exp()
    target = target / (target.sum(2, keepdim=True) + 1e-8)
    return -(target * logits.flatten(2).log_softmax(2)).sum(2).mean()
