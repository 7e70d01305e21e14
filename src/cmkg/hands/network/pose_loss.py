"""What a hand network is trained on: Eq. 1 in a stated unit, and heatmaps where there are any."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...losses import regression_loss
from .heatmaps import heatmap_loss
from .pose import Pose

UNIT_MM = 10.0
LOSS_UNIT = "cm^2 of the set's mean hand"


@dataclass(frozen=True)
class PoseLoss:
    """Eq. 1 in cm^2 of a set's mean hand: joints are in bone units, one bone is bone_mm long.

    Predictions with heatmaps get heatmap_weight times their cross-entropy on top (not in the
    paper).

    The paper does not state its unit. In cm^2 the three terms of G are of one size with the paper's
    lambda; in mm^2 L_DIST would be a hundredth of G, and the inner SGD step would diverge.
    """

    bone_mm: float
    heatmap_weight: float

    def __call__(self, prediction: Pose, target: Pose) -> Tensor:
        """A scalar."""
        bone = self.bone_mm / UNIT_MM
        value = regression_loss(bone * prediction.joints, bone * target.joints)
        if prediction.heatmaps is not None and target.uv is not None:
            value = value + self.heatmap_weight * heatmap_loss(prediction.heatmaps, target.uv)
        return value
