"""What one optimisation step costs on this machine, measured."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from ...features import FeatureTap
from ...losses import regression_loss
from ...prior import Prior
from ...runtime.distributed import Precision, launch
from ...steps import distil_step, meta_step, supervised_step
from ..network.pose import Pose
from ..network.posenet import NetConfig, pose_net


class StepKind(NamedTuple):
    """What the time of a step depends on; kind: teacher, student, distil or meta."""

    kind: str
    net: NetConfig
    batch: int
    precision: Precision


def _joints_loss(prediction: Pose, target: torch.Tensor) -> torch.Tensor:
    return regression_loss(prediction.joints, target)


def seconds_per_step(step: StepKind, steps: int = 2) -> float:
    """Seconds of one optimisation step on made tensors, after one to warm up."""
    kind, net, batch, precision = step
    fabric = launch(precision)
    device = fabric.device
    student, teacher = pose_net(net, 3), pose_net(net, 1)
    student.to(device)
    teacher.to(device)
    tap = FeatureTap(student, student.feature_layers)
    teacher_tap = FeatureTap(teacher, teacher.feature_layers)
    x = torch.randn(batch, 3, net.px, net.px, device=device)
    depth = torch.randn(batch, 1, net.px, net.px, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    depth = depth.contiguous(memory_format=torch.channels_last)
    y = torch.randn(batch, 21, 3, device=device)
    trained, picture = (teacher, depth) if kind == "teacher" else (student, x)
    optimizer = torch.optim.Adam(trained.parameters(), 1e-9)
    priors = [Prior.constant(student, 0.0, p) for p in (1, 2)]
    networks = (student, tap, teacher, teacher_tap, optimizer)

    def take_step() -> None:
        if kind == "meta":
            meta_step(
                *networks,
                priors,
                x,
                depth,
                y,
                alpha=1e-9,
                beta=1e-9,
                loss=_joints_loss,
                context=fabric.autocast,
            )
        elif kind == "distil":
            distil_step(*networks, x, depth, y, loss=_joints_loss, context=fabric.autocast)
        else:
            supervised_step(trained, optimizer, picture, y, _joints_loss, context=fabric.autocast)

    take_step()
    began = time.perf_counter()
    for _ in range(steps):
        take_step()  # returns floats: the device has finished
    return (time.perf_counter() - began) / steps
