"""Which share of a training step is spent on data: reading the packed set, and making the network's
inputs from it?

Bar: under 5 % waiting for data. Augmentation is arithmetic on the batch, on the training device; it
is shown apart.

    python benchmarks/data_wait.py [--width 0.5] [--px 64] [--batch 32] [--rounds 30]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from cmkg import engine, supervised_step
from cmkg.hands.augment import Augmentation, network_inputs
from cmkg.hands.datasets.packed import pack
from cmkg.hands.datasets.rendered import Rendered
from cmkg.hands.model import pose_net
from cmkg.hands.scenes import SceneConfig
from cmkg.recipes.common import channels_last, labels, loss_cm


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("width", 0.5), ("px", 64), ("batch", 32), ("rounds", 30)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp()) / "set"
    packed = pack(Rendered(SceneConfig(px=options.px * 5 // 4), 512), folder)
    fabric, net = engine.launch(), pose_net("resnet18", options.width)
    net, optimizer, loss = (
        net.to(fabric.device),
        torch.optim.Adam(net.parameters()),
        loss_cm(packed, 100.0),
    )
    spent = {"reading": [], "augmentation": [], "step": []}
    for step in range(options.rounds + 3):
        rows = engine.batch_indices(0, step, len(packed), options.batch).numpy()
        t0 = time.perf_counter()
        raw = [
            torch.from_numpy(np.asarray(a[rows])).to(fabric.device)
            for a in (packed.rgb, packed.joints_mm, packed.K)
        ]
        t1 = time.perf_counter()
        batch = network_inputs(
            raw[0],
            None,
            raw[1],
            raw[2],
            packed.meta,
            options.px,
            Augmentation(),
            engine.generator("a", step),
        )
        t2 = time.perf_counter()
        supervised_step(
            net,
            optimizer,
            channels_last(batch["rgb"]),
            labels(batch),
            loss,
            context=fabric.autocast,
        )
        for name, value in zip(spent, (t1 - t0, t2 - t1, time.perf_counter() - t2), strict=False):
            spent[name].append(value)
    medians = {k: statistics.median(v[3:]) for k, v in spent.items()}
    total = sum(medians.values())
    for name, value in medians.items():
        print(
            f"{name:14}{100 * value / total:6.2f} % of a step"
            + ("   (bar: under 5 %)" if name == "reading" else "")
        )


if __name__ == "__main__":
    main()
