"""What does the prior add to an optimiser's step? Adam on ResNet-50, bare, and with a per-weight prior on its 23.5 million
weights, coupled and decoupled. Steps alone, without forward and backward: the share of a whole training step is smaller.

Ratios within one run, median of the rounds, the variants in turn. Bar: at most 1.15.

    python benchmarks/prior_overhead.py [--backbone resnet50] [--rounds 20]
"""

import argparse
import statistics
import time

import torch

from cmkg import Prior
from cmkg.hands.model import pose_net


def stepper(backbone, coupled):
    net = pose_net(backbone, 1.0)
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)
    for t in net.parameters():
        t.grad = torch.randn_like(t)
    if coupled is not None:
        Prior.constant(net, 1e-4).attach(optimizer, net, coupled)
    return optimizer.step


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    steps = {"Adam": stepper(options.backbone, None), "coupled prior": stepper(options.backbone, True), "decoupled prior": stepper(options.backbone, False)}
    seconds = {name: [] for name in steps}
    for round_ in range(options.rounds + 2):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if round_ > 1:
                seconds[name].append(time.perf_counter() - began)
    base = statistics.median(seconds["Adam"])
    for name, t in seconds.items():
        print(f"{name:16} {statistics.median(t) / base:6.2f}   ({1000 * statistics.median(t):.1f} ms)")


if __name__ == "__main__":
    main()
