"""Six meta-steps on the processes of this job, from one global batch a step: theta and phi of the
first process to a file.

torchrun --nproc-per-node N tests/runtime/steps_on_processes.py OUT KIND ...

KIND: plain, wrapped, projected, batchnorm, labelled, scarce, uneven
"""

import sys
from functools import partial

import torch
from safetensors.torch import save_file
from torch import nn

from cmkg import Batch, DistillationLoss, Distiller, MetaConfig, PriorLearner, distillation_loss
from cmkg.runtime.distributed import launch, sum_over_ranks
from cmkg.runtime.random import batch_indices
from cmkg.runtime.ranks import rank
from cmkg.training.step import take_step


def net(channels, seed, normalised):
    torch.manual_seed(seed)
    norm = (lambda c: nn.BatchNorm2d(c)) if normalised else (lambda c: nn.Identity())
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, padding=1),
        norm(4),
        nn.Tanh(),
        nn.Conv2d(4, 5, 3, padding=1, stride=2),
        norm(5),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(80, 6),
    )


def steps(fabric, kind):
    """theta, phi and the losses after six steps."""
    student, teacher = net(3, 0, kind == "batchnorm"), net(1, 7, kind == "batchnorm")
    layers = [("2", "2"), ("5", "5")]
    distiller = Distiller(student, teacher, pairs=layers, criterion=distillation_loss)
    if kind == "projected":  # the student alone is wrapped, and a criterion learns beside it
        torch.manual_seed(fabric.global_rank)
        criterion = DistillationLoss([(5, 4, 4)], [(5, 4, 4)], attention_weight=1.0)
        criterion.project = nn.Conv2d(5, 5, 1)
        if fabric.world_size > 1:
            student = nn.parallel.DistributedDataParallel(student)
        distiller = Distiller(student, teacher, pairs=layers[1:], criterion=criterion)
    learner = PriorLearner(distiller, MetaConfig(alpha=1e-2, beta=1.0))
    optimizer = torch.optim.Adam(distiller.parameters(), 1e-3)
    trained = distiller
    if kind == "wrapped" and fabric.world_size > 1:
        trained = nn.parallel.DistributedDataParallel(distiller)
    g = torch.Generator().manual_seed(3)
    x, depth, y = (torch.randn(s, generator=g) for s in ((64, 3, 8, 8), (64, 1, 8, 8), (64, 6)))
    for step in range(6):
        rows = batch_indices(0, step, 64, 16, fabric.global_rank, fabric.world_size)
        batch = Batch(x[rows], depth[rows], y[rows], labelled_of(kind, step, rows))
        learn = partial(learner.backward, batch)
        losses = take_step(student, optimizer, lambda batch=batch: trained(batch), learn=learn)
    losses = {k: torch.tensor(v / fabric.world_size) for k, v in sum_over_ranks(losses).items()}
    return {
        **{
            f"theta/{n.replace('module.', '')}": t.detach() for n, t in distiller.named_parameters()
        },
        **{f"phi/{n}": t for n, t in learner.prior.phi.items()},
        **{f"loss/{n}": t for n, t in losses.items()},
    }


def labelled_of(kind, step, rows):
    """labelled: every other row of both processes' shares; scarce: the first one's share and one
    row of the second's; uneven: the first one's share alone."""
    first, second = (batch_indices(0, step, 64, 16, place, 2) for place in (0, 1))
    chosen = {
        "labelled": torch.cat([first[::2], second[::2]]),
        "scarce": torch.cat([first, second[:1]]),
        "uneven": first,
    }
    return torch.isin(rows, chosen[kind]) if kind in chosen else None


def main(out, *kinds):
    fabric = launch("32-true", accelerator="cpu")
    found = {
        f"{kind}: {name}": tensor for kind in kinds for name, tensor in steps(fabric, kind).items()
    }
    if rank() == 0:
        save_file(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
