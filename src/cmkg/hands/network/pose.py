"""The inputs and outputs of hand networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Pose(NamedTuple):
    """A network's output, or its labels.

    joints: wrist-relative, in units of the bone |middle MCP - middle PIP|. uv: positions on the
    picture, from -1 to 1; None if the network does not predict them. heatmaps: logits; None if the
    network has no heatmaps.
    """

    joints: Float[Tensor, "b 21 3"]
    uv: Float[Tensor, "b 21 2"] | None = None
    heatmaps: Float[Tensor, "b 21 h w"] | None = None


@dataclass(frozen=True)
class HandBatch:
    """Network inputs and labels.

    rgb: normalized. depth: relative to the wrist, in units of 120 mm, clipped to [-1, 1], 1 where
    nothing was measured. joints, uv: see Pose. scale_mm: the bone's length. labelled: which samples
    are labeled; None is all. answers: a teacher's cached predictions.
    """

    joints: Float[Tensor, "b 21 3"]
    uv: Float[Tensor, "b 21 2"]
    scale_mm: Float[Tensor, " b"]
    rgb: Float[Tensor, "b 3 px px"] | None = None
    depth: Float[Tensor, "b 1 px px"] | None = None
    labelled: Bool[Tensor, " b"] | None = None
    answers: Pose | None = None

    def __len__(self) -> int:
        return len(self.joints)

    def picture(self, modality: str) -> Float[Tensor, "b c px px"]:
        """The "rgb" or "depth" input, with channels last in memory."""
        picture = self.rgb if modality == "rgb" else self.depth
        if picture is None:
            raise ValueError(f"this batch holds no {modality}")
        return picture.contiguous(memory_format=torch.channels_last)

    @property
    def labels(self) -> Pose:
        """The target of a prediction."""
        return Pose(self.joints, self.uv)

    def to_convention(self, matrix: Float[Tensor, "21 21"]) -> HandBatch:
        """Converts the joints to another bone convention; see skeleton.retarget_matrix.

        The conventions differ mainly in the unit bone. The hand keeps its size, so scale_mm changes
        with the unit and uv stays unchanged.
        """
        matrix = matrix.to(self.joints.device)
        joints = torch.einsum("ij,bjk->bik", matrix, self.joints)
        unit = 1 / matrix.diagonal()[1:].median()  # in old units, the median over bones
        return replace(self, joints=joints, scale_mm=self.scale_mm * unit)

    def join(self, other: HandBatch) -> HandBatch:
        """Concatenates this batch and another."""
        return HandBatch(
            joints=torch.cat([self.joints, other.joints]),
            uv=torch.cat([self.uv, other.uv]),
            scale_mm=torch.cat([self.scale_mm, other.scale_mm]),
            rgb=_concatenate(self.rgb, other.rgb),
            depth=_concatenate(self.depth, other.depth),
            labelled=_concatenate(self.labelled, other.labelled),
            answers=_join_answers(self.answers, other.answers),
        )


def _join_answers(a: Pose | None, b: Pose | None) -> Pose | None:
    if a is None or b is None:
        return None
    return Pose(torch.cat([a.joints, b.joints]), _concatenate(a.uv, b.uv))


def _concatenate(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else torch.cat([a, b])
