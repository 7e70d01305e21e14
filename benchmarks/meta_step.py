"""How much does learning the prior cost? One meta-step against a plain distillation step, and against the same step
written with `higher` and with TorchOpt (second-order graphs).

Ratios within one run. Time: the variants take turns, median of the rounds. Memory: each variant alone in a fresh
process, growth of its peak over the networks and the batch. Bars: <= 2.5x the time and <= 1.5x the memory of plain
distillation; at least 1.5x faster and leaner than higher and TorchOpt.

    python benchmarks/meta_step.py [--backbone resnet18] [--width 0.5] [--px 64] [--batch 32] [--rounds 8]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from cmkg import FeatureTap, Prior, distil_step, distillation_loss, meta_step, regression_loss
from cmkg.hands.model import pose_net

ALPHA, BETA = 2.5e-4, 1e-3


def setting(options):
    student, teacher = (pose_net(options.backbone, options.width, c, seed=c) for c in (3, 1))
    taps = FeatureTap(student, student.feature_layers), FeatureTap(teacher, teacher.feature_layers)
    g = torch.Generator().manual_seed(0)
    size = (options.batch, options.px, options.px)
    x, depth = torch.randn(size[0], 3, *size[1:], generator=g), torch.randn(size[0], 1, *size[1:], generator=g)
    optimizer = torch.optim.Adam(student.parameters(), ALPHA)
    return student, taps, teacher.requires_grad_(False), optimizer, x, depth, torch.randn(size[0], 21, 3, generator=g)


def plain(student, taps, teacher, optimizer, x, depth, y):
    return lambda: distil_step(student, taps[0], teacher, taps[1], optimizer, x, depth, y)


def closed_form(student, taps, teacher, optimizer, x, depth, y):
    prior = Prior.constant(student)
    return lambda: meta_step(student, taps[0], teacher, taps[1], optimizer, [prior], x, depth, y, ALPHA, BETA)


def penalty(parameters, phi):
    return sum((phi[n] * t.square()).sum() for n, t in parameters if n in phi)


def G(prediction, maps, teacher, teacher_tap, depth, y):
    with torch.no_grad():
        teacher.eval()
        teacher(depth)
    return regression_loss(prediction, y) + sum(distillation_loss(maps, teacher_tap.maps).values())


def finish(student, taps, teacher, optimizer, x, depth, y, phi, gradients):
    """phi's update from the unrolled gradient, then theta's plain step: what every implementation owes."""
    with torch.no_grad():
        torch._foreach_add_(list(phi.values()), gradients, alpha=-BETA)
    distil_step(student, taps[0], teacher, taps[1], optimizer, x, depth, y)


def with_higher(student, taps, teacher, optimizer, x, depth, y):
    import higher

    phi = {n: torch.zeros_like(t).requires_grad_() for n, t in student.named_parameters() if t.dim() >= 2}
    inner = torch.optim.SGD(student.parameters(), ALPHA)

    def step():
        with higher.innerloop_ctx(student, inner, copy_initial_weights=True) as (ahead, optimizer_ahead):
            tap = FeatureTap(ahead, ahead.feature_layers)
            named = zip((n for n, _ in student.named_parameters()), ahead.parameters())
            optimizer_ahead.step(regression_loss(ahead(x), y) + penalty(named, phi))
            outer = G(ahead(x), tap.maps, teacher, taps[1], depth, y)
            gradients = torch.autograd.grad(outer, list(phi.values()))
        finish(student, taps, teacher, optimizer, x, depth, y, phi, gradients)

    return step


def with_torchopt(student, taps, teacher, optimizer, x, depth, y):
    import torchopt

    phi = {n: torch.zeros_like(t).requires_grad_() for n, t in student.named_parameters() if t.dim() >= 2}

    def step():
        inner = torchopt.MetaSGD(student, lr=ALPHA)
        before = torchopt.extract_state_dict(student, by="reference")
        inner.step(regression_loss(student(x), y) + penalty(named_now(student), phi))
        outer = G(student(x), taps[0].maps, teacher, taps[1], depth, y)
        gradients = torch.autograd.grad(outer, list(phi.values()))
        torchopt.recover_state_dict(student, before)
        torchopt.stop_gradient(student)
        finish(student, taps, teacher, optimizer, x, depth, y, phi, gradients)

    def named_now(module):
        for prefix, child in module.named_modules():
            for name, t in child._parameters.items():
                if t is not None:
                    yield (f"{prefix}.{name}" if prefix else name), t

    return step


VARIANTS = {"plain distillation": plain, "meta-step (closed form)": closed_form, "meta-step in higher": with_higher,
            "meta-step in TorchOpt": with_torchopt}  # fmt: skip


def peak_growth(name, options):
    """MiB that the variant's peak lies above networks and batch, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name]
    for key in ("backbone", "width", "px", "batch"):
        command += [f"--{key}", str(getattr(options, key))]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else float("nan")


def measure_memory(options):
    step = VARIANTS[options.memory_of](*setting(options))
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    for _ in range(3):
        step()
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps((peak - before) / 2**20))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        return measure_memory(options)
    steps, seconds = {}, {}
    for name, make in VARIANTS.items():
        try:
            steps[name] = make(*setting(options))
            steps[name]()
            seconds[name] = []
        except Exception as error:
            steps.pop(name, None)
            print(f"{name}: does not run here: {type(error).__name__}: {error}")
    for _ in range(options.rounds):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
    base = statistics.median(seconds["plain distillation"])
    memory = {name: peak_growth(name, options) for name in steps}
    print(
        f"{options.backbone} x {options.width}, {options.px} px, batch {options.batch}, {torch.get_num_threads()} threads"
    )
    print(f"{'':26}{'time':>8}{'memory':>9}   (plain distillation = 1)")
    for name, t in seconds.items():
        print(f"{name:26}{statistics.median(t) / base:8.2f}{memory[name] / memory['plain distillation']:9.2f}")
    return None


if __name__ == "__main__":
    main()
