"""What does the prior add to an optimiser's step? Adam on ResNet-50: bare, with its own weight
decay (plain l2), and with a per-weight prior on its 23.5 million weights, coupled and decoupled.
Steps alone; then the prior's share of a whole training step (forward and backward at 64 px,
batch 32).

Ratios within one run, median of the rounds, the variants in turn. Bar: at most 1.15. The step is
bound by memory: it passes over some seven arrays of the weights' size, and the prior has to read
two and write one more.

    python benchmarks/prior_overhead.py [--backbone resnet50] [--rounds 20]
"""

import argparse
import statistics
import time

import torch

from cmkg import Prior
from networks import JointsNet


def stepper(backbone, coupled=None, decay=0.0):
    net = JointsNet(backbone, 1.0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-4, weight_decay=decay)
    for t in net.parameters():
        t.grad = torch.randn_like(t)
    if coupled is not None:
        Prior.constant(net, 1e-4).attach(optimizer, net, coupled)
    return optimizer.step


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    steps = {
        "Adam": stepper(options.backbone),
        "Adam, weight decay": stepper(options.backbone, decay=1e-4),
        "coupled prior": stepper(options.backbone, True),
        "decoupled prior": stepper(options.backbone, False),
    }
    seconds = {name: [] for name in steps}
    for round_ in range(options.rounds + 2):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if round_ > 1:
                seconds[name].append(time.perf_counter() - began)
    base = statistics.median(seconds["Adam"])
    for name, t in seconds.items():
        print(
            f"{name:20} {statistics.median(t) / base:6.2f}   ({1000 * statistics.median(t):.1f} ms)"
        )
    whole, more = (
        training_step(options.backbone),
        statistics.median(seconds["coupled prior"]) - base,
    )
    print(
        f"the coupled prior's share of a training step: {more / (whole + base + more):.1%} "
        f"({1000 * whole:.0f} ms forward and backward)"
    )


def training_step(backbone):
    net, x = JointsNet(backbone, 1.0), torch.randn(32, 3, 64, 64)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        net(x).sum().backward()
        times.append(time.perf_counter() - began)
    return min(times)


if __name__ == "__main__":
    main()
