"""Networks of finished stages: their settings, their weights, and the convention they speak."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import torch

from ...errors import InputError
from ...runtime.files import PathLike
from ...runtime.run_files import expect_shape, read_own_settings
from ...runtime.weight_files import load_weights
from ..datasets.packed import Packed
from ..network.posenet import NetConfig, PoseNet, pose_net
from .fitting import convention_matrix

Modality = Literal["rgb", "depth"]
CHANNELS: dict[str, int] = {"rgb": 3, "depth": 1}
ROLES = {"rgb": "student", "depth": "teacher"}
THETA_0 = "theta_0"


class Trained(NamedTuple):
    """A network with its weights, and its settings."""

    model: PoseNet
    net: NetConfig


def read_net_config(folder: PathLike) -> NetConfig:
    """The network of a finished teacher or student run.

    Raises:
        InputError: the folder holds no such run.
    """
    path = Path(folder) / "config.json"
    held = read_own_settings(folder)
    if "net" not in held:
        raise InputError(
            f"{path}: expected the settings of a teacher or student run, with its network under "
            "'net', found none"
        )
    net: NetConfig = expect_shape(held["net"], NetConfig, path)
    return net


def student_weights(stage: PathLike) -> Path:
    """The weights of a finished student, distill or target run.

    Raises:
        InputError: the folder has none.
    """
    for name in ("target", "distilled", "student"):
        path = Path(stage) / f"{name}.safetensors"
        if path.exists():
            return path
    raise InputError(
        f"{stage}: expected a finished stage with target.safetensors, distilled.safetensors or "
        "student.safetensors, found none"
    )


def load_network(folder: PathLike, modality: str, weights: str) -> Trained:
    """The network of a finished run with the weights `weights`.safetensors of its folder."""
    net = read_net_config(folder)
    model = pose_net(net, CHANNELS[modality])
    load_weights(Path(folder) / f"{weights}.safetensors", model)
    return Trained(model, net)


def expect_own_unit(model: PoseNet, path: PathLike) -> None:
    """Refuses weights whose joints are in a set's bone: a source's labels are in each hand's own.

    Raises:
        InputError: they are.
    """
    if float(model.unit_mm):
        raise InputError(
            f"{path}: these weights were trained with --scale set; a source's stage needs weights "
            "in each hand's own bone"
        )


def load_start(weights: PathLike, student: PathLike, source: PathLike, target: Packed) -> Trained:
    """A student to start a target from.

    Trained weights speak the target's bone convention then. The convention is a linear map on
    joints, the network's last step: no weight moves.

    Args:
        weights: a file; empty is theta_0 of the student's folder.
        student: the folder of the source student.
        source: the packed set that the weights were trained on.
        target: whose convention.
    """
    trained = load_network(student, "rgb", THETA_0)
    if weights:
        load_weights(weights, trained.model)
        matrix = convention_matrix(Packed(source), target)
        trained.model.convention.copy_(matrix @ trained.model.convention)
        if float(trained.model.unit_mm) and not torch.allclose(matrix, torch.eye(21), atol=1e-3):
            trained.model.unit_mm.fill_(target.bone_mm)  # the bone of the new convention
    return trained
