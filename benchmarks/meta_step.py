"""How much does learning the prior cost? One meta-step against a plain distillation step, and
against the same step with `higher` and with TorchOpt. Each library twice: as its documentation
writes such a step (the inner loop in its context, `backward` through it, theta's own update
after it), and rewritten by hand to share what ours shares (the first forward pass, the teacher's
maps, gradients of phi alone), where autograd prunes the second-order graph at l = 1.

Ratios within one run. Time: the variants take turns, median of the rounds. Memory: each variant
alone in a fresh process, growth of its peak over the networks and the batch. Bars: <= 2.5x the time
and <= 1.5x the memory of plain distillation; at least 1.5x faster and leaner than higher and
TorchOpt as they are documented.

    python benchmarks/meta_step.py --backbone resnet18 --width 0.5 --px 64 --batch 32 --rounds 8
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

from cmkg import (
    Batch,
    Distiller,
    FeatureTap,
    MetaConfig,
    Prior,
    PriorLearner,
    distillation_loss,
    regression_loss,
)
from cmkg.prior.meta_gradient import unrolled_gradient
from cmkg.training.step import take_step
from networks import JointsNet

ALPHA, BETA = 2.5e-4, 1e-3


def setting(options):
    student, teacher = (JointsNet(options.backbone, options.width, c, seed=c) for c in (3, 1))
    taps = FeatureTap(student, student.feature_layers), FeatureTap(teacher, teacher.feature_layers)
    g = torch.Generator().manual_seed(0)
    size = (options.batch, options.px, options.px)
    x, depth = (
        torch.randn(size[0], 3, *size[1:], generator=g),
        torch.randn(size[0], 1, *size[1:], generator=g),
    )
    optimizer = torch.optim.Adam(student.parameters(), ALPHA)
    x, depth = (t.contiguous(memory_format=torch.channels_last) for t in (x, depth))
    return (
        student,
        taps,
        teacher.requires_grad_(False),
        optimizer,
        x,
        depth,
        torch.randn(size[0], 21, 3, generator=g),
    )


def distiller_of(student, teacher):
    layers = [(name, name) for name in student.feature_layers]
    return Distiller(student, teacher, pairs=layers, criterion=distillation_loss)


def plain(student, taps, teacher, optimizer, x, depth, y):
    distiller, batch = distiller_of(student, teacher), Batch(x, depth, y)
    return lambda: take_step(student, optimizer, lambda: distiller(batch))


def closed_form(student, taps, teacher, optimizer, x, depth, y):
    distiller, batch = distiller_of(student, teacher), Batch(x, depth, y)
    learner = PriorLearner(distiller, MetaConfig(alpha=ALPHA, beta=BETA))
    learn = partial(learner.backward, batch)
    return lambda: take_step(student, optimizer, lambda: distiller(batch), learn=learn)


def updated_apart(student, taps, teacher, optimizer, x, depth, y):
    """The prior learned with `update`, in a loop that calls backward() itself."""
    distiller, batch = distiller_of(student, teacher), Batch(x, depth, y)
    learner = PriorLearner(distiller, MetaConfig(alpha=ALPHA, beta=BETA))

    def step():
        losses = distiller(batch)
        learner.update(batch, losses)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()

    return step


def penalty(parameters, phi):
    return sum((phi[n] * t.square()).sum() for n, t in parameters if n in phi)


def maps_of(teacher, tap, depth):
    with torch.no_grad():
        teacher.eval()
        teacher(depth)
    return tap.maps


def apply(optimizer, parameters, gradients, phi, phi_gradients):
    """phi's update and theta's, as the meta-step makes them: the same work, shared in the same
    way."""
    with torch.no_grad():
        torch._foreach_add_(list(phi.values()), phi_gradients, alpha=-BETA)
    for t, g in zip(parameters, gradients, strict=False):
        t.grad = g
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def with_higher(student, taps, teacher, optimizer, x, depth, y):
    import higher

    phi = {
        n: torch.zeros_like(t).requires_grad_()
        for n, t in student.named_parameters()
        if t.dim() >= 2
    }
    inner = torch.optim.SGD(student.parameters(), ALPHA)
    names = [n for n, _ in student.named_parameters()]

    def step():
        maps = maps_of(teacher, taps[1], depth)
        with higher.innerloop_ctx(student, inner, copy_initial_weights=False) as (
            ahead,
            optimizer_ahead,
        ):
            tap, theta = FeatureTap(ahead, ahead.feature_layers), list(ahead.parameters())
            regression = regression_loss(ahead(x), y)
            distilled = sum(distillation_loss(tap.maps, maps).values())
            total = torch.autograd.grad(regression + distilled, theta, retain_graph=True)
            optimizer_ahead.step(regression + penalty(zip(names, theta, strict=False), phi))
            outer = regression_loss(ahead(x), y) + sum(distillation_loss(tap.maps, maps).values())
            gradients = torch.autograd.grad(outer, list(phi.values()))
        apply(optimizer, list(student.parameters()), total, phi, gradients)

    return step


def distil_alone(student, taps, optimizer, x, y, maps):
    """theta's update on G, as a step of its own."""
    optimizer.zero_grad()
    (
        regression_loss(student(x), y) + sum(distillation_loss(taps[0].maps, maps).values())
    ).backward()
    optimizer.step()


def higher_documented(student, taps, teacher, optimizer, x, depth, y):
    import higher

    phi = {
        n: torch.zeros_like(t).requires_grad_()
        for n, t in student.named_parameters()
        if t.dim() >= 2
    }
    inner, meta = (
        torch.optim.SGD(student.parameters(), ALPHA),
        torch.optim.SGD(list(phi.values()), BETA),
    )

    def step():
        maps = maps_of(teacher, taps[1], depth)
        meta.zero_grad()
        with higher.innerloop_ctx(student, inner) as (ahead, optimizer_ahead):
            tap = FeatureTap(ahead, ahead.feature_layers)
            optimizer_ahead.step(
                regression_loss(ahead(x), y) + penalty(ahead.named_parameters(), phi)
            )
            (
                regression_loss(ahead(x), y) + sum(distillation_loss(tap.maps, maps).values())
            ).backward()
        meta.step()
        distil_alone(student, taps, optimizer, x, y, maps)

    return step


def torchopt_documented(student, taps, teacher, optimizer, x, depth, y):
    import torchopt

    phi = {
        n: torch.zeros_like(t).requires_grad_()
        for n, t in student.named_parameters()
        if t.dim() >= 2
    }
    meta = torch.optim.SGD(list(phi.values()), BETA)

    def step():
        maps = maps_of(teacher, taps[1], depth)
        meta.zero_grad()
        inner = torchopt.MetaSGD(student, lr=ALPHA)
        before = torchopt.extract_state_dict(student, by="reference")
        inner.step(regression_loss(student(x), y) + penalty(student.named_parameters(), phi))
        (
            regression_loss(student(x), y) + sum(distillation_loss(taps[0].maps, maps).values())
        ).backward()
        meta.step()
        torchopt.recover_state_dict(student, before)
        distil_alone(student, taps, optimizer, x, y, maps)

    return step


def with_torchopt(student, taps, teacher, optimizer, x, depth, y):
    import torchopt

    phi = {
        n: torch.zeros_like(t).requires_grad_()
        for n, t in student.named_parameters()
        if t.dim() >= 2
    }

    def step():
        maps = maps_of(teacher, taps[1], depth)
        parameters = list(student.parameters())
        inner = torchopt.MetaSGD(student, lr=ALPHA)
        before = torchopt.extract_state_dict(student, by="reference")
        regression = regression_loss(student(x), y)
        distilled = sum(distillation_loss(taps[0].maps, maps).values())
        total = torch.autograd.grad(regression + distilled, parameters, retain_graph=True)
        inner.step(regression + penalty(named_now(student), phi))
        outer = regression_loss(student(x), y) + sum(distillation_loss(taps[0].maps, maps).values())
        gradients = torch.autograd.grad(outer, list(phi.values()))
        torchopt.recover_state_dict(student, before)
        apply(optimizer, parameters, total, phi, gradients)

    def named_now(module):
        for prefix, child in module.named_modules():
            for name, t in child._parameters.items():
                if t is not None:
                    yield (f"{prefix}.{name}" if prefix else name), t

    return step


def unrolled(student, taps, teacher, optimizer, x, depth, y):
    """Algorithm 1 in torch.func (meta_gradient.unrolled_gradient, the tests' oracle), and theta's
    update after it."""
    prior = Prior.constant(student)

    def step():
        maps = maps_of(teacher, taps[1], depth)

        def outer(net):
            return regression_loss(net(x), y) + sum(distillation_loss(taps[0].maps, maps).values())

        found = unrolled_gradient(
            student, prior, lambda net: regression_loss(net(x), y), outer, ALPHA
        )
        prior.learn_(found, BETA)
        distil_alone(student, taps, optimizer, x, y, maps)

    return step


VARIANTS = {
    "plain distillation": plain,
    "meta-step (closed form)": closed_form,
    "the same, update() apart": updated_apart,
    "torch.func, unrolled": unrolled,
    "higher, as documented": higher_documented,
    "TorchOpt, as documented": torchopt_documented,
    "higher, shared by hand": with_higher,
    "TorchOpt, shared by hand": with_torchopt,
}


def peak_growth(name, options):
    """MiB that the variant's peak lies above networks and batch, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", name]
    for key in ("backbone", "width", "px", "batch"):
        command += [f"--{key}", str(getattr(options, key))]
    done = subprocess.run(command, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else float("nan")


def measure_memory(options):
    step = VARIANTS[options.memory_of](*setting(options))

    def status(key):
        return int(
            next(
                line for line in Path("/proc/self/status").read_text().splitlines() if key in line
            ).split()[1]
        )

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts anew from here
    before = status("VmRSS")
    for _ in range(3):
        step()
    print(json.dumps((status("VmHWM") - before) / 1024))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
        f"{options.backbone} x {options.width}, {options.px} px, batch {options.batch}, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{'':26}{'time':>8}{'memory':>9}   (plain distillation = 1)")
    for name, t in seconds.items():
        ratio = memory[name] / memory["plain distillation"]
        print(f"{name:26}{statistics.median(t) / base:8.2f}{ratio:9.2f}")
    return None


if __name__ == "__main__":
    main()
