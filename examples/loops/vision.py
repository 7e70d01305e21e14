"""What the loops with pictures share: a teacher, made data."""

import torch
from torch import nn
from torch.utils.data import default_collate


def cnn():
    """A teacher for pictures of depth (1, 16, 16); its last map is (16, 4, 4)."""
    torch.manual_seed(1)
    conv = [nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
    return nn.Sequential(*conv, nn.Flatten(), nn.Linear(256, 3))


def pictures():
    """32 samples: depth, a noisy picture of it, and a class."""
    g = torch.Generator().manual_seed(0)
    depth = torch.rand(32, 1, 16, 16, generator=g)
    rgb = depth + torch.randn(32, 3, 16, 16, generator=g)
    labels = torch.randint(0, 3, (32,), generator=g)
    return [{"rgb": rgb[i], "depth": depth[i], "labels": labels[i]} for i in range(32)]


def example():
    return default_collate(pictures()[:4])
