"""Draws the figures of docs/: `make docs`. Each from a training that runs here, none from stored
numbers."""

import copy
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

from cmkg import DistillationLoss, FeatureTap, Prior, meta_step
from cmkg.hands.report.plots import PALETTE, STYLE, plt, to_svg

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))
import digits  # noqa: E402


def learned(make_optimizer, beta=1.0, alpha=1e-2, epochs=20):
    """phi of the digits student after distilling, and the prior of its two checkpoints."""
    source, *_ = digits.pictures(0)
    teacher, student = digits.network(1000), digits.network(0)
    optimizer = torch.optim.Adam(teacher.parameters(), 1e-3)
    for _ in range(epochs):
        for _, sharp, y in digits.Batches(source):
            optimizer.zero_grad()
            F.cross_entropy(teacher(sharp), y).backward()
            optimizer.step()
    distillation = DistillationLoss([(16, 4, 4), (32, 4, 4)], [(16, 8, 8), (32, 8, 8)], 1.0)
    taps, prior = (
        [FeatureTap(net, ["1", "3"]) for net in (student, teacher)],
        Prior.constant(student),
    )
    optimizer, before = (
        make_optimizer(student.parameters()),
        copy.deepcopy(dict(student.named_parameters())),
    )
    for _ in range(epochs):
        for x, sharp, y in digits.Batches(source):
            meta_step(
                student,
                taps[0],
                teacher,
                taps[1],
                optimizer,
                [prior],
                x,
                sharp,
                y,
                alpha,
                beta,
                loss=F.cross_entropy,
                distillation=distillation,
            )
    return prior, Prior.from_checkpoints(before, dict(student.named_parameters()), beta)


def two_checkpoints():
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(7.0, 3.3))
        for axes, (name, make) in zip(
            panels,
            {
                "SGD": lambda t: torch.optim.SGD(t, 1e-2),
                "Adam": lambda t: torch.optim.Adam(t, 1e-3),
            }.items(),
            strict=False,
        ):
            torch.manual_seed(0)
            phi, free = (
                torch.cat([t.flatten() for t in p.phi.values()]).detach() for p in learned(make)
            )
            r = torch.corrcoef(torch.stack([free, phi]))[0, 1]
            axes.scatter(
                free[::3], phi[::3], s=3, alpha=0.4, color=PALETTE[0], lw=0, rasterized=True
            )
            axes.set(
                title=f"{name}: correlation {r:.2f}", xlabel="−β (θ_K² − θ_0²)", ylabel="learned φ"
            )
        return to_svg(figure)


if __name__ == "__main__":
    (ROOT / "docs/phi_two_checkpoints.svg").write_text(two_checkpoints())
