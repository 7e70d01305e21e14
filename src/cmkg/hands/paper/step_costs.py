"""Measures the time of one optimization step on this machine."""

from __future__ import annotations

import time
from functools import partial
from typing import NamedTuple

import torch

from ...batch import Batch
from ...distillation.distiller import Distiller
from ...distillation.losses import distillation_loss, regression_loss
from ...prior.learner import MetaConfig, PriorLearner
from ...runtime.distributed import Precision, launch
from ...training.step import take_step
from ..network.pose import Pose
from ..network.posenet import NetConfig, pose_net


class StepKind(NamedTuple):
    """The factors that determine the time of a step; kind: teacher, student, distil or meta."""

    kind: str
    net: NetConfig
    batch: int
    precision: Precision


def _joints_loss(prediction: Pose, target: torch.Tensor) -> torch.Tensor:
    return regression_loss(prediction.joints, target)


def seconds_per_step(step: StepKind, steps: int = 2) -> float:
    """Seconds per optimization step on synthetic tensors, after one warm-up step."""
    kind, net, batch, precision = step
    fabric = launch(precision)
    device = fabric.device
    student, teacher = pose_net(net, 3), pose_net(net, 1)
    student.to(device)
    teacher.to(device)
    x = torch.randn(batch, 3, net.px, net.px, device=device)
    depth = torch.randn(batch, 1, net.px, net.px, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    depth = depth.contiguous(memory_format=torch.channels_last)
    y = torch.randn(batch, 21, 3, device=device)
    trained, picture = (teacher, depth) if kind == "teacher" else (student, x)
    optimizer = torch.optim.Adam(trained.parameters(), 1e-9)
    layers = [(name, name) for name in student.feature_layers]
    distiller = Distiller(
        student, teacher, pairs=layers, loss=_joints_loss, criterion=distillation_loss
    )
    learner = PriorLearner(distiller, MetaConfig((1, 2), alpha=1e-9, beta=1e-9))
    learn = partial(learner.backward, Batch(x, depth, y)) if kind == "meta" else None

    def losses_of() -> dict[str, torch.Tensor]:
        if kind in ("meta", "distil"):
            return distiller(Batch(x, depth, y))
        return {"regression": _joints_loss(trained(picture), y)}

    def step_once() -> None:
        take_step(trained, optimizer, losses_of, fabric.autocast, learn)

    step_once()
    began = time.perf_counter()
    for _ in range(steps):
        step_once()  # returns floats, so that the device has finished
    return (time.perf_counter() - began) / steps
