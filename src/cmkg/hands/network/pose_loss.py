"""The training loss of a hand network: Eq. 1 in a stated unit, and a heatmap loss if applicable."""

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
    """Eq. 1 in a squared unit, for a set's mean hand, whose bone is bone_mm long.

    Joints are in bone units. For predictions with heatmaps, heatmap_weight times their
    cross-entropy is added to Eq. 1 in cm^2 (not in the paper). The unit, and `mean` over the 63
    coordinates that Eq. 1 sums, scale the total.

    The paper does not state its unit; docs/paper.md describes the effect of each.
    """

    bone_mm: float
    heatmap_weight: float
    unit: LossUnit = "cm"
    mean: bool = False

    def __call__(self, prediction: Pose, target: Pose) -> Tensor:
        """Returns the scalar loss."""
        bone_cm = self.bone_mm / UNITS_MM["cm"]
        value = regression_loss(bone_cm * prediction.joints, bone_cm * target.joints)
        if prediction.heatmaps is not None and target.uv is not None:
            value = value + self.heatmap_weight * heatmap_loss(prediction.heatmaps, target.uv)
        factor = (UNITS_MM["cm"] / UNITS_MM.get(self.unit, self.bone_mm)) ** 2
        if self.mean:
            factor /= target.joints[0].numel()
        return factor * value


class TeachersPose(nn.Module):
    """Uses the teacher's pose as labels: (student's maps, teacher's maps) to {"outputs"}.

    A criterion on `output_pairs`: the loss of the student's pose, with the teacher's joints and the
    centers of mass of its heatmaps as targets.

    weight: the weight of the term in G.
    """

    def __init__(self, loss: PoseLoss, weight: float) -> None:
        super().__init__()
        self.loss = loss
        self.weight = weight

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns {"outputs"}: a scalar, weighted as it enters G."""
        prediction, other = Pose(student[0].float()), Pose(teacher[0].float())
        if len(student) > 1:
            prediction, other = (
                prediction._replace(heatmaps=student[1].float()),
                other._replace(uv=teacher[1]),
            )
        return {"outputs": self.weight * self.loss(prediction, other)}


def output_pairs(net: NetConfig) -> list[Pair]:
    """The pairs that TeachersPose compares: joints, and for integral heads heatmaps with uv."""
    joints, uv, heatmaps = range(3)  # of a Pose
    pairs = [Pair("head", "head", output=joints)]
    if net.head == "integral":
        pairs.append(Pair("head", "head", output=(heatmaps, uv)))
    return pairs


def loss_of(net: NetConfig, bone_mm: float) -> PoseLoss:
    """The loss defined by a network's settings."""
    return PoseLoss(bone_mm, net.heatmap_weight, net.loss_unit, net.loss_mean)


def describe_unit(net: NetConfig) -> str:
    """The loss's unit in words, for a prior's manifest."""
    mean = ", mean over coordinates" if net.loss_mean else ""
    return f"{net.loss_unit}^2 of the set's mean hand{mean}"
