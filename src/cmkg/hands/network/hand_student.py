"""A distributable hand student that loads with huggingface_hub's mixin."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ...errors import InputError
from ...runtime.files import PathLike, read_json
from ...runtime.weight_files import load_weights
from ..skeleton import RULER_SHARE
from .augment import normalise
from .heatmaps import spread_of
from .pose import Pose
from .posenet import Head, NetConfig, StemStride, pose_net

NEAR = 0.1  # of the box's side; confidence is the probability of a smaller error
BONE_MM = 32.0  # default |middle MCP - middle PIP| for unknown people
CALIBRATION = (-4.0, -1.5)
HAND_BONES = 5.6  # value of the hand that ships with cmkg


class HandStudent(nn.Module, PyTorchModelHubMixin, library_name="cmkg", tags=["cmkg", "hand-pose"]):
    """Maps RGB crops of right hands to 21 joints.

        student = HandStudent.from_pretrained(folder)
        joints_mm = student.joints_mm(crops, bone_mm=33.0)

    Args:
        backbone, width, head, stem_stride, px, upright: see posenet.NetConfig.
        bone_mm: mean |middle MCP - middle PIP| of the training hands.
        calibration: a and b of `confidence`, fitted by `cmkg export --data`.
        hand_bones: length of the hand, from the wrist to the middle finger's tip, in these bones;
            it depends on where the annotators put the knuckle.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        width: float = 1.0,
        head: Head = "pooled",
        stem_stride: StemStride = 4,
        px: int = 256,
        bone_mm: float = BONE_MM,
        calibration: Any = CALIBRATION,
        upright: bool = False,
        hand_bones: float = HAND_BONES,
    ) -> None:
        super().__init__()
        self.config = NetConfig(backbone, width, head, stem_stride, px=px, upright=upright)
        self.px = px
        self.bone_mm = float(bone_mm)
        a, b = calibration
        self.calibration = float(a), float(b)
        self.hand_bones = float(hand_bones)
        numbers = (self.bone_mm, self.hand_bones, *self.calibration)
        is_sane = 1 < self.bone_mm < 1000 and 2 < self.hand_bones < 10
        if not all(map(math.isfinite, numbers)) or not is_sane:
            raise InputError(
                f"a hand student: expected a bone's length in mm, 2 to 10 of them a hand, and two "
                f"finite numbers of its confidence, got {self.bone_mm}, {self.hand_bones} and "
                f"{self.calibration}"
            )
        if not isinstance(upright, bool):
            raise InputError(
                f"a hand student: upright: expected true or false, got {upright!r:.40}"
            )
        self.net = pose_net(self.config)

    def save_pretrained(self, save_directory: PathLike, **options: Any) -> str | None:
        """Saves as the mixin does, and adds the manifest that `load_student` requires."""
        from ..files.exports import MANIFEST, write_manifest

        (Path(save_directory) / MANIFEST).unlink(missing_ok=True)
        url: str | None = super().save_pretrained(save_directory, **options)
        write_manifest(save_directory)
        return url

    def unit_of(self, measured_mm: float) -> float:
        """Converts a ruler's length of the first bone to the student's unit bone.

        Annotators put the knuckle elsewhere than a ruler, but the length of the hand is the same.
        """
        return measured_mm / (RULER_SHARE * self.hand_bones)

    def forward(self, x: Float[Tensor, "b 3 px px"]) -> Pose:
        """Maps normalized pictures to a Pose, in units of |middle MCP - middle PIP|."""
        return self.net(x)

    def confidence(self, pose: Pose) -> Float[Tensor, "b 21"]:
        """The probability that a joint's picture position is accurate to NEAR of the box's side.

        It is sigmoid(a + b log(spread)), where spread is its heatmap's standard deviation. The pose
        must have heatmaps.
        """
        assert pose.heatmaps is not None
        a, b = self.calibration
        return (a + b * spread_of(pose.heatmaps).log()).sigmoid()

    @torch.no_grad()
    def joints_mm(
        self, crops: Shaped[np.ndarray, "b h h 3"], bone_mm: float | None = None
    ) -> Float[Tensor, "b 21 3"]:
        """Predicts joints in mm, wrist at the origin, from uint8 RGB crops of right hands.

        Args:
            crops: cropped as in docs/datasets.md.
            bone_mm: the middle finger's first bone measured by a ruler, see `unit_of`; None uses
                the average of the training hands.
        """
        device = next(self.parameters()).device
        x = torch.as_tensor(np.ascontiguousarray(crops)).to(device)
        x = x.permute(0, 3, 1, 2).float() / 255
        x = F.interpolate(x, (self.px, self.px), mode="bilinear", antialias=True)
        default = float(self.net.unit_mm) or self.bone_mm
        unit = default if bone_mm is None else self.unit_of(bone_mm)
        return unit * self.eval()(normalise(x)).joints


def _expect_as_large(weights: Path, settings: dict[str, Any]) -> None:
    """Rejects settings of a network larger than its weights file, before allocating it."""
    with torch.device("meta"):
        described = HandStudent(**settings)
    count = sum(parameter.numel() for parameter in described.parameters())
    if 2 * count > weights.stat().st_size:
        raise ValueError(
            f"they describe {count:,} weights, {weights.name} has {weights.stat().st_size:,} bytes"
        )


def load_student(folder: PathLike) -> HandStudent:
    """Loads a student from a folder written by `cmkg export`.

    HandStudent.from_pretrained loads one from a hub.

    Raises:
        InputError: the folder holds no student, or a damaged one.
    """
    from ..files.exports import expect_whole_export

    path = Path(folder)
    expect_whole_export(path)
    try:
        settings = read_json(path / "config.json", "a hand student's settings")
        if not isinstance(settings, dict):
            raise TypeError("expected settings by name")
        _expect_as_large(path / "model.safetensors", settings)
        student = HandStudent(**settings)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}/config.json: expected a hand student's settings, as `cmkg export` writes "
            f"them: {error}"
        ) from None
    load_weights(path / "model.safetensors", student)
    return student.eval()
