"""Hugging Face accelerate: prepare() wraps networks and optimisers; the prior finds the real ones.

python examples/loops/accelerate_loop.py
"""

from pathlib import Path

import torch
from accelerate import Accelerator
from common import loader, network, start

from cmkg import Distiller, MetaConfig, PriorLearner


def distil(folder, epochs):
    """Goes on from the folder's checkpoint, if it has one."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    distiller = Distiller(network(3, 0), network(8, 1), next(iter(loader())), attention_weight=0.0)
    optimizer = torch.optim.Adam(distiller.parameters(), 1e-2)
    learner = PriorLearner(distiller, MetaConfig(alpha=1e-2, beta=1.0))
    accelerator.register_for_checkpointing(learner)
    distiller, optimizer, data = accelerator.prepare(distiller, optimizer, loader())
    path = Path(folder) / "checkpoint"
    first = 0
    if path.exists():
        accelerator.load_state(path)
        first = int((path / "epoch.txt").read_text())
    for _ in range(first, epochs):
        for batch in data:
            with accelerator.accumulate(distiller):
                losses = distiller(batch)
                learner.update(batch, losses)
                accelerator.backward(sum(losses.values()))
                optimizer.step()
                optimizer.zero_grad()
    accelerator.save_state(path)
    (path / "epoch.txt").write_text(str(epochs))
    return accelerator.unwrap_model(distiller).student, learner.prior


def main(folder):
    student, prior = distil(folder, 2)
    accelerator = Accelerator(cpu=True)
    target = network(3, 0)
    optimizer = torch.optim.AdamW(target.parameters(), 1e-3)
    target, optimizer, data = accelerator.prepare(target, optimizer, loader())
    with prior.with_rms(1e-3).attach(optimizer, target) as handle:
        for x, _, y in data:
            optimizer.zero_grad()
            accelerator.backward((target(x) - y).square().mean())
            optimizer.step()
    print(f"{prior}, {handle.steps} steps on the target")


if __name__ == "__main__":
    start(main)
