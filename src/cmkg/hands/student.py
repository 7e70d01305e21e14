"""A trained hand student to be given away: loadable with huggingface_hub's mixin from a folder
or from a hub."""

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from .augment import GREY
from .model import pose_net


class HandStudent(nn.Module, PyTorchModelHubMixin, library_name="cmkg", tags=["cmkg", "hand-pose"]):
    """RGB crops of right hands -> 21 joints.

    student = HandStudent.from_pretrained(folder)
    joints_mm = student.joints_mm(crops, bone_mm=33.0)
    """

    def __init__(self, backbone="resnet18", width=1.0, head="pooled", stem_stride=4, px=256):
        super().__init__()
        self.px, self.net = px, pose_net(backbone, width, 3, head=head, stem_stride=stem_stride)

    def forward(self, x):
        """Normalised pictures (B, 3, px, px) -> joints (B, 21, 3), wrist-relative, in units of
        |middle MCP - middle PIP|."""
        return self.net(x)

    @torch.no_grad()
    def joints_mm(self, crops, bone_mm):
        """Crops (B, H, H, 3) uint8 RGB of right hands, boxed as in docs/datasets.md -> (B, 21, 3)
        mm, wrist at the origin.

        bone_mm: the length of the middle finger's first bone, which a picture alone does not
        tell.
        """
        device = next(self.parameters()).device
        x = (
            torch.as_tensor(np.ascontiguousarray(crops)).to(device).permute(0, 3, 1, 2).float()
            / 255
        )
        x = F.interpolate(x, (self.px, self.px), mode="bilinear", antialias=True)
        mean, std = (t.to(device).view(1, 3, 1, 1) for t in GREY)
        return bone_mm * self.eval()((x - mean) / std)
