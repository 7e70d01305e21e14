"""What a hand network is trained on: Eq. 1 in a stated unit, and heatmaps where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ...distillation.losses import regression_loss
from ...distillation.pairing import Pair
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


class TeachersPose(nn.Module):
    """What the teacher sees, as labels: (student's maps, teacher's maps) to {"outputs"}.

    A criterion on `output_pairs`: the loss of the student's pose with the teacher's joints, and its
    heatmaps' centres of mass, in the labels' place.

    weight: of the term in G.
    """

    def __init__(self, loss: PoseLoss, weight: float) -> None:
        super().__init__()
        self.loss = loss
        self.weight = weight

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns {"outputs"}, weighted as it enters G; a scalar."""
        own, other = Pose(student[0].float()), Pose(teacher[0].float())
        if len(student) > 1:
            own, other = own._replace(heatmaps=student[1].float()), other._replace(uv=teacher[1])
        return {"outputs": self.weight * self.loss(own, other)}


def output_pairs(net: NetConfig) -> list[Pair]:
    """What TeachersPose compares: joints, and where there are any heatmaps with their centres."""
    joints, uv, heatmaps = range(3)  # of a Pose
    pairs = [Pair("head", "head", output=joints)]
    if net.head == "integral":
        pairs.append(Pair("head", "head", output=(heatmaps, uv)))
    return pairs


def loss_of(net: NetConfig, bone_mm: float) -> PoseLoss:
    """The loss that a network's settings name."""
    return PoseLoss(bone_mm, net.heatmap_weight, net.loss_unit, net.loss_mean)


def describe_unit(net: NetConfig) -> str:
    """The loss's unit in words, for a prior's manifest."""
    mean = ", mean over coordinates" if net.loss_mean else ""
    return f"{net.loss_unit}^2 of the set's mean hand{mean}"
