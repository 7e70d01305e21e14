"""A trained hand student to be given away: huggingface_hub's mixin loads it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from .augment import normalise
from .pose import Pose
from .posenet import Head, NetConfig, StemStride, pose_net


class HandStudent(nn.Module, PyTorchModelHubMixin, library_name="cmkg", tags=["cmkg", "hand-pose"]):
    """RGB crops of right hands to 21 joints.

        student = HandStudent.from_pretrained(folder)
        joints_mm = student.joints_mm(crops, bone_mm=33.0)

    Args:
        backbone, width, head, stem_stride, px: see posenet.NetConfig.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        width: float = 1.0,
        head: Head = "pooled",
        stem_stride: StemStride = 4,
        px: int = 256,
    ) -> None:
        super().__init__()
        config = NetConfig(backbone, width, head, stem_stride, px=px)
        self.px = px
        self.net = pose_net(config)

    def forward(self, x: Float[Tensor, "b 3 px px"]) -> Pose:
        """Normalised pictures to a Pose, in units of |middle MCP - middle PIP|."""
        return self.net(x)

    @torch.no_grad()
    def joints_mm(
        self, crops: Shaped[np.ndarray, "b h h 3"], bone_mm: float
    ) -> Float[Tensor, "b 21 3"]:
        """Joints in mm, wrist at the origin, of uint8 RGB crops of right hands.

        Args:
            crops: boxed as in docs/datasets.md.
            bone_mm: the length of the middle finger's first bone, which a picture does not tell.
        """
        device = next(self.parameters()).device
        x = torch.as_tensor(np.ascontiguousarray(crops)).to(device)
        x = x.permute(0, 3, 1, 2).float() / 255
        x = F.interpolate(x, (self.px, self.px), mode="bilinear", antialias=True)
        return bone_mm * self.eval()(normalise(x)).joints
