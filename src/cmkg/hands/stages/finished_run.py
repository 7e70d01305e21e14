"""The folder of a finished training: its settings, network, weights and checksum."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from ...errors import InputError
from ...runtime.files import PathLike, read_file
from ...runtime.run_records import expect_shape, read_own_settings
from ...runtime.weight_files import load_weights
from ..datasets.packed.format import Packed
from ..network.loader import convention_matrix
from ..network.posenet import NetConfig, PoseNet, pose_net

Modality = Literal["rgb", "depth"]
CHANNELS: dict[str, int] = {"rgb": 3, "depth": 1}
ROLES = {"rgb": "student", "depth": "teacher"}
THETA_0 = "theta_0"
WEIGHTS = (THETA_0, "student", "teacher", "model")  # those that other stages read
STUDENTS = ("target", "distilled", "student")  # in order of preference


@dataclass(frozen=True)
class FinishedRun:
    """The folder of a finished teacher, student, distill or target run. Its settings are read once.

    Raises:
        InputError: on first use of a part that the folder does not hold.
    """

    folder: Path

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The run's settings, on which config.json and the result must agree."""
        return read_own_settings(self.folder)

    @cached_property
    def net(self) -> NetConfig:
        """The network of a teacher or student run."""
        path = self.folder / "config.json"
        if "net" not in self.settings:
            raise InputError(
                f"{path}: expected the settings of a teacher or student run, with its network "
                "under 'net', found none"
            )
        net: NetConfig = expect_shape(self.settings["net"], NetConfig, path)
        return net

    @cached_property
    def modality(self) -> Modality:
        """The input modality of a teacher or student run."""
        modality: Any = self.settings.get("modality")
        if modality not in tuple(CHANNELS):
            raise InputError(
                f"{self.folder / 'config.json'}: expected a teacher's or a student's run, with "
                f"'modality' rgb or depth, found {modality!r}"
            )
        known_modality: Modality = modality
        return known_modality

    def load(self, weights: str = "", modality: Modality = "rgb") -> PoseNet:
        """The network with the weights `weights`.safetensors of the folder.

        Args:
            weights: the file's stem; empty means the trained weights of a teacher or student run.
            modality: the input of the network.
        """
        model = pose_net(self.net, CHANNELS[modality])
        load_weights(self.folder / f"{weights or ROLES[self.modality]}.safetensors", model)
        return model

    @property
    def student_weights(self) -> Path:
        """The file with the trained student of a student, distill or target run."""
        for name in STUDENTS:
            path = self.folder / f"{name}.safetensors"
            if path.exists():
                return path
        raise InputError(
            f"{self.folder}: expected a finished stage with target.safetensors, "
            "distilled.safetensors or student.safetensors, found none"
        )

    @property
    def checksum(self) -> str:
        """The checksum of its network and of the weights that other stages read."""
        digest = hashlib.sha256()
        if (self.folder / "config.json").exists():
            digest.update(repr([self.settings.get(name) for name in ("modality", "net")]).encode())
        for name in WEIGHTS:
            if (file := self.folder / f"{name}.safetensors").exists():
                digest.update(name.encode() + read_file(file, "weights"))
        return digest.hexdigest()[:16]


def expect_bone_unit(model: PoseNet, path: PathLike) -> None:
    """Refuses weights with joints in a set's bone unit: source labels use each hand's own bone.

    Raises:
        InputError: the weights use a set's bone unit.
    """
    if float(model.unit_mm):
        raise InputError(
            f"{path}: these weights were trained with --scale set; a source's stage needs weights "
            "in each hand's own bone"
        )


class Start(NamedTuple):
    """The initial student of a target training, and its settings."""

    model: PoseNet
    net: NetConfig


def load_start(weights: PathLike, student: FinishedRun, source: PathLike, target: Packed) -> Start:
    """The initial student of a target training, in the target's bone convention.

    The convention is a linear map on joints, the network's last step: no weight changes.

    Args:
        weights: a file; empty means theta_0 of the student's folder.
        student: the source student.
        source: the packed set that the weights were trained on.
        target: the set that defines the convention.
    """
    model = student.load(THETA_0)
    if weights:
        load_weights(weights, model)
        matrix = convention_matrix(Packed(source), target)
        model.convention.copy_(matrix @ model.convention)
        if float(model.unit_mm) and not torch.allclose(matrix, torch.eye(21), atol=1e-3):
            model.unit_mm.fill_(target.bone_mm)  # the bone of the new convention
    return Start(model, student.net)
