"""Draws the figures of docs/: `make docs`. Each from a training that runs here, none from stored
numbers."""

import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from cmkg import Distiller, MetaConfig, Prior, PriorLearner
from cmkg.hands.report.plots import PALETTE, STYLE, plt, to_svg

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
import scarce_labels  # noqa: E402

STEPS = 30  # as many batches as an epoch has


def learned(make_optimizer, rate, beta=1.0, epochs=20):
    """phi of the digits student after distilling with alpha = rate, the prior of its two
    checkpoints, and beta times the sum of its squared steps: three vectors."""
    source, *_ = scarce_labels.draw(0)
    teacher, student = scarce_labels.network(1000), scarce_labels.network(0)
    optimizer = torch.optim.Adam(teacher.parameters(), 1e-3)
    for _ in range(epochs):
        for _, sharp, y in scarce_labels.Batches(source, STEPS):
            optimizer.zero_grad()
            F.cross_entropy(teacher(sharp), y).backward()
            optimizer.step()
    settings = {"pairs": [("1", "1"), ("3", "3")], "loss": F.cross_entropy}
    example = next(iter(scarce_labels.Batches(source, STEPS)))
    distiller = Distiller(student, teacher, example, **settings, attention_weight=1.0)
    learner = PriorLearner(distiller, MetaConfig(alpha=rate, beta=beta))
    optimizer = make_optimizer(distiller.parameters(), rate)
    prior, weights = learner.prior, dict(student.named_parameters())
    before = {name: weights[name].detach().clone() for name in prior.phi}
    squares = {name: torch.zeros_like(phi) for name, phi in prior.phi.items()}
    for _ in range(epochs):
        for batch in scarce_labels.Batches(source, STEPS):
            now = {name: weights[name].detach().clone() for name in prior.phi}
            losses = distiller(batch)
            learner.update(batch, losses)
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            for name, theta in now.items():
                squares[name] += beta * (weights[name].detach() - theta) ** 2
    free = Prior.from_checkpoints(before, {name: weights[name] for name in before}, beta)
    parts = prior.phi, free.phi, squares
    return [torch.cat([part[name].flatten() for name in prior.phi]) for part in parts]


def correlation(a, b):
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def two_checkpoints():
    """Small steps, large steps, Adam: learned phi against what two checkpoints give."""
    panels = {
        "SGD, rate 0.001": (torch.optim.SGD, 1e-3),
        "SGD, rate 0.01": (torch.optim.SGD, 1e-2),
        "Adam, rate 0.001": (torch.optim.Adam, 1e-3),
    }
    with plt.rc_context(STYLE):
        figure, every = plt.subplots(1, 3, figsize=(9.6, 3.4))
        for axes, (name, (make, rate)) in zip(every, panels.items(), strict=True):
            torch.manual_seed(0)
            phi, free, squares = learned(make, rate)
            with_squares = correlation(free + squares, phi)
            axes.scatter(free[::3], phi[::3], s=3, alpha=0.4, color=PALETTE[0], lw=0)
            axes.collections[0].set_rasterized(True)
            title = f"{name}\ncorrelation {correlation(free, phi):.2f}"
            axes.set(title=f"{title}, with Σ Δθ² {with_squares:.2f}")
            axes.set(xlabel="−β (θ_K² − θ_0²)", ylabel="learned φ")
            print(name, correlation(free, phi), with_squares)
        return to_svg(figure)


if __name__ == "__main__":
    (ROOT / "docs/phi_two_checkpoints.svg").write_text(two_checkpoints())
