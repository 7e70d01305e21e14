"""How does a training step scale over processes? `cmkg student`'s steps at one global batch on 1, 2
and 4 gloo processes.

On n cores more than n processes cannot gain: the figures tell what the exchange costs. Ratios
within one run.

    python benchmarks/processes.py [--processes 1 2 4] [--batch 64] [--steps 20]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cmkg.runtime.workers import core_count

STEP = """
import json, sys, time, torch
from functools import partial
from cmkg import Batch, Distiller, MetaConfig, PriorLearner, distillation_loss
from cmkg.runtime.distributed import launch, wait_for_all
from cmkg.runtime.ranks import rank
from cmkg.training.step import take_step
sys.path.insert(0, sys.argv[4])
from networks import JointsNet
batch, steps, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
fabric = launch("32-true", accelerator="cpu")
student, teacher = JointsNet("resnet18", 0.25, 3), JointsNet("resnet18", 0.25, 1)
layers = [(name, name) for name in student.feature_layers]
distiller = Distiller(student, teacher, pairs=layers, criterion=distillation_loss)
learner = PriorLearner(distiller, MetaConfig(alpha=1e-5, beta=1e-3))
optimizer = torch.optim.Adam(student.parameters(), 1e-4)
mine = batch // fabric.world_size
made = Batch(*(torch.randn(mine, *size) for size in ((3, 64, 64), (1, 64, 64), (21, 3))))
learn = partial(learner.backward, made)
step = lambda: take_step(student, optimizer, lambda: distiller(made), learn=learn)
for _ in range(3): step()
wait_for_all(); began = time.perf_counter()
for _ in range(steps): step()
wait_for_all()
if rank() == 0: json.dump((time.perf_counter() - began) / steps, open(out, "w"))
"""


def seconds(processes, batch, steps, home):
    script, out = home / "step.py", home / "seconds.json"
    script.write_text(STEP)
    threads = str(max(core_count() // processes, 1))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        str(processes),
        str(script),
        str(batch),
        str(steps),
        str(out),
        str(Path(__file__).parent),
    ]
    subprocess.run(
        command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": threads}
    )
    return json.loads(out.read_text())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        found = {n: seconds(n, options.batch, options.steps, Path(home)) for n in options.processes}
    base = found[options.processes[0]]
    print(
        f"meta-step, ResNet-18 x 0.25, 64 px, global batch {options.batch}, "
        f"{len(os.sched_getaffinity(0))} cores; {options.processes[0]} process(es) = 1"
    )
    for n, s in found.items():
        print(f"{n} processes: {s / base:5.2f} x the time of a step")


if __name__ == "__main__":
    main()
