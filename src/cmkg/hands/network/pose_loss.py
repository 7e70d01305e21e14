"""What a hand network is trained on: Eq. 1 in a stated unit, and heatmaps where there are any."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...losses import regression_loss
from .heatmaps import heatmap_loss
from .pose import Pose
from .posenet import LossUnit, NetConfig

UNITS_MM: dict[str, float] = {"mm": 1.0, "cm": 10.0, "m": 1000.0}


@dataclass(frozen=True)
class PoseLoss:
    """Eq. 1 in a unit, squared, of a set's mean hand: one bone is bone_mm long.

    Joints are in bone units. Predictions with heatmaps get heatmap_weight times their cross-entropy
    beside Eq. 1 in cm^2 (not in the paper). The unit, and `mean` over the 63 coordinates that Eq. 1
    sums, are factors of the whole.

    The paper does not state its unit: docs/paper.md has what each does.
    """

    bone_mm: float
    heatmap_weight: float
    unit: LossUnit = "cm"
    mean: bool = False

    def __call__(self, prediction: Pose, target: Pose) -> Tensor:
        """A scalar."""
        bone_cm = self.bone_mm / UNITS_MM["cm"]
        value = regression_loss(bone_cm * prediction.joints, bone_cm * target.joints)
        if prediction.heatmaps is not None and target.uv is not None:
            value = value + self.heatmap_weight * heatmap_loss(prediction.heatmaps, target.uv)
        factor = (UNITS_MM["cm"] / UNITS_MM.get(self.unit, self.bone_mm)) ** 2
        if self.mean:
            factor /= target.joints[0].numel()
        return factor * value


def loss_of(net: NetConfig, bone_mm: float) -> PoseLoss:
    """The loss that a network's settings name."""
    return PoseLoss(bone_mm, net.heatmap_weight, net.loss_unit, net.loss_mean)


def describe_unit(net: NetConfig) -> str:
    """The loss's unit in words, for a prior's manifest."""
    mean = ", mean over coordinates" if net.loss_mean else ""
    return f"{net.loss_unit}^2 of the set's mean hand{mean}"
