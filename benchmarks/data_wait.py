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

from cmkg.hands.datasets.packed.pack import pack
from cmkg.hands.network.augment import Augmentation, Stored, network_inputs
from cmkg.hands.network.pose_loss import PoseLoss
from cmkg.hands.network.posenet import NetConfig, pose_net
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.synthesis.rendered import Rendered
from cmkg.runtime.distributed import launch
from cmkg.runtime.random import batch_indices, generator
from cmkg.training.step import take_step


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("width", 0.5), ("px", 64), ("batch", 32), ("rounds", 30)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp()) / "set"
    packed = pack(Rendered(SceneConfig(px=options.px * 5 // 4), 512), folder)
    fabric = launch()
    net = pose_net(NetConfig(width=options.width)).to(fabric.device)
    optimizer = torch.optim.Adam(net.parameters())
    loss = PoseLoss(packed.bone_mm, 100.0)

    def read(rows):
        arrays = packed.joints_mm, packed.K, packed.rgb
        return [torch.from_numpy(np.asarray(a[rows])).to(fabric.device) for a in arrays]

    spent = {"reading": [], "augmentation": [], "step": []}
    for step in range(options.rounds + 3):
        rows = batch_indices(0, step, len(packed), options.batch).numpy()
        began = time.perf_counter()
        joints_mm, K, rgb = read(rows)
        was_read = time.perf_counter()
        stored = Stored(joints_mm, K, packed.stored_px, packed.margin, rgb)
        batch = network_inputs(stored, options.px, Augmentation(), generator("a", step))
        was_augmented = time.perf_counter()

        def losses_of(batch=batch):
            return {"regression": loss(net(batch.picture("rgb")), batch.labels)}

        take_step(net, optimizer, losses_of, fabric.autocast)
        spent["reading"].append(was_read - began)
        spent["augmentation"].append(was_augmented - was_read)
        spent["step"].append(time.perf_counter() - was_augmented)
    medians = {name: statistics.median(values[3:]) for name, values in spent.items()}
    total = sum(medians.values())
    for name, value in medians.items():
        bar = "   (bar: under 5 %)" if name == "reading" else ""
        print(f"{name:14}{100 * value / total:6.2f} % of a step{bar}")


if __name__ == "__main__":
    main()
