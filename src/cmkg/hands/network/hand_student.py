"""A trained hand student to be given away: huggingface_hub's mixin loads it."""

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

NEAR = 0.1  # of the box's side: what a joint's confidence is the chance of
BONE_MM = 32.0  # |middle MCP - middle PIP| where nothing is known of the people
CALIBRATION = (-4.0, -1.5)
HAND_BONES = 5.6  # of the hand that ships with cmkg


class HandStudent(nn.Module, PyTorchModelHubMixin, library_name="cmkg", tags=["cmkg", "hand-pose"]):
    """RGB crops of right hands to 21 joints.

        student = HandStudent.from_pretrained(folder)
        joints_mm = student.joints_mm(crops, bone_mm=33.0)

    Args:
        backbone, width, head, stem_stride, px, upright: see posenet.NetConfig.
        bone_mm: mean |middle MCP - middle PIP| of the hands that it was trained on.
        calibration: a and b of `confidence`, as `cmkg export --data` fits them.
        hand_bones: how many of these bones the hand is long, from the wrist to the middle finger's
            tip: where its annotators put the knuckle.
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
        """As the mixin does, with a manifest of the files, which `load_student` asks for."""
        from ..files.exports import MANIFEST, write_manifest

        (Path(save_directory) / MANIFEST).unlink(missing_ok=True)
        found: str | None = super().save_pretrained(save_directory, **options)
        write_manifest(save_directory)
        return found

    def unit_of(self, measured_mm: float) -> float:
        """The student's own bone of a hand whose first bone a ruler says to be so long.

        Annotators put the knuckle elsewhere than a ruler finds it; the hand's length is one.
        """
        return measured_mm / (RULER_SHARE * self.hand_bones)

    def forward(self, x: Float[Tensor, "b 3 px px"]) -> Pose:
        """Normalised pictures to a Pose, in units of |middle MCP - middle PIP|."""
        return self.net(x)

    def confidence(self, pose: Pose) -> Float[Tensor, "b 21"]:
        """The chance that a joint is within NEAR of the box's side of its place on the picture.

        sigmoid(a + b log(spread)) of its heatmap's standard deviation. Of heatmaps alone.
        """
        assert pose.heatmaps is not None
        a, b = self.calibration
        return (a + b * spread_of(pose.heatmaps).log()).sigmoid()

    @torch.no_grad()
    def joints_mm(
        self, crops: Shaped[np.ndarray, "b h h 3"], bone_mm: float | None = None
    ) -> Float[Tensor, "b 21 3"]:
        """Joints in mm, wrist at the origin, of uint8 RGB crops of right hands.

        Args:
            crops: boxed as in docs/datasets.md.
            bone_mm: what a ruler says of the middle finger's first bone, see `unit_of`; None is
                the people that it was trained on.
        """
        device = next(self.parameters()).device
        x = torch.as_tensor(np.ascontiguousarray(crops)).to(device)
        x = x.permute(0, 3, 1, 2).float() / 255
        x = F.interpolate(x, (self.px, self.px), mode="bilinear", antialias=True)
        own = float(self.net.unit_mm) or self.bone_mm
        unit = own if bone_mm is None else self.unit_of(bone_mm)
        return unit * self.eval()(normalise(x)).joints


def _expect_as_large(weights: Path, settings: dict[str, Any]) -> None:
    """Refuses settings of a network that is larger than its weights' file, before it is made."""
    with torch.device("meta"):
        described = HandStudent(**settings)
    count = sum(parameter.numel() for parameter in described.parameters())
    if 2 * count > weights.stat().st_size:
        raise ValueError(
            f"they describe {count:,} weights, {weights.name} has {weights.stat().st_size:,} bytes"
        )


def load_student(folder: PathLike) -> HandStudent:
    """The student of a folder that `cmkg export` wrote; of a hub: HandStudent.from_pretrained.

    Raises:
        InputError: it holds none, or a damaged one.
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
