"""What these loops share: made data, a small network, a checkpoint."""

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def network(inputs, seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(inputs, 16), nn.Tanh(), nn.Linear(16, 2))


def dataset():
    """(x, x_superior, y): three columns of eight, all eight, products of some."""
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x[:, :3], x, x[:, :2] * x[:, 2:4])


def loader():
    return DataLoader(dataset(), 8)


def resume(folder, **parts):
    """Puts the folder's checkpoint into the parts; returns the epochs that it has done."""
    path = Path(folder) / "checkpoint.pt"
    if not path.exists():
        return 0
    held = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(held[name])
    return held["epoch"]


def save(folder, epoch, **parts):
    held = {name: part.state_dict() for name, part in parts.items()}
    torch.save(held | {"epoch": epoch}, Path(folder) / "checkpoint.pt")


def plain_loop(folder, epochs, batches, distiller, learner, optimizer):
    """Distils, and learns phi meanwhile; goes on from the folder's checkpoint, if it has one."""
    parts = {"distiller": distiller, "learner": learner, "optimizer": optimizer}
    for _ in range(resume(folder, **parts), epochs):
        for batch in batches():
            losses = distiller(batch)
            learner.update(batch, losses)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
    save(folder, epochs, **parts)
    return distiller.student, learner.prior


def start(main):
    """Runs main(folder) of a script: its first argument, or a new folder."""
    main(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp())
