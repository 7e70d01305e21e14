"""Eqs. 1-4 and 8 of Zhao et al. (CVPR 2020), as functions of predictions and feature maps.

Every loss sums over coordinates, channels and places, as the paper writes it, and takes the mean
over the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

ATTENTION_WEIGHT = 1e3  # lambda of Eq. 4
Value = TypeVar("Value")
Losses = dict[str, Tensor]


def regression_loss(
    prediction: Float[Tensor, "b ..."], target: Float[Tensor, "b2 ..."]
) -> Float[Tensor, ""]:
    """Eq. 1: ||f(x) - y||^2, summed over all but the batch, mean over the batch.

    Raises:
        ValueError: the shapes differ.

    >>> import torch
    >>> regression_loss(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(3.)
    """
    _expect_same_shape("prediction", prediction, "target", target)
    return (prediction - target).square().flatten(1).sum(1).mean()


def activation_loss(
    student_map: Float[Tensor, "b ..."], teacher_map: Float[Tensor, "b2 ..."]
) -> Float[Tensor, ""]:
    """Eq. 2: ||Q_l(x; f) - Q_l(x~; g)||^2 of the last feature maps (B, C, H, W).

    Raises:
        ValueError: the shapes differ.
    """
    _expect_same_shape("the student's feature map", student_map, "the teacher's", teacher_map)
    return (student_map - teacher_map).square().flatten(1).sum(1).mean()


def to_float32(value: Value) -> Value:
    """Half precisions as float32, all else as it is.

    Sums of squares overflow in half precision, or drown in 8 bits of mantissa.
    """
    if isinstance(value, Tensor) and value.is_floating_point() and value.element_size() < 4:
        return value.float()  # type: ignore[return-value]
    return value


def attention_map(
    features: Float[Tensor, "b c *places"], eps: float = 1e-12
) -> Float[Tensor, "b hw"]:
    """A = sum over channels of Q^2, flattened over its places, with unit length."""
    squares = to_float32(features).square().sum(1).flatten(1)
    return squares / squares.norm(dim=1, keepdim=True).clamp_min(eps)


def attention_loss(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]
) -> Float[Tensor, ""]:
    """Eq. 3: sum over the paired layers of ||A_j(f) - A_j(g)||^2.

    Lists of (B, C_j, H_j, W_j). Channels may differ between student and teacher, places may not.

    Raises:
        ValueError: the layers are not paired, or their places differ.
    """
    if len(student_maps) != len(teacher_maps) or not student_maps:
        raise ValueError(
            f"attention needs paired layers: {len(student_maps)} of the student, "
            f"{len(teacher_maps)} of the teacher"
        )
    total = student_maps[0].new_zeros((), dtype=to_float32(student_maps[0]).dtype)
    for student_map, teacher_map in zip(student_maps, teacher_maps, strict=True):
        student, teacher = attention_map(student_map), attention_map(teacher_map)
        _expect_same_shape("the student's attention map", student, "the teacher's", teacher)
        total = total + (student - teacher).square().sum(1).mean()
    return total


def distillation_loss(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    attention_weight: float = ATTENTION_WEIGHT,
) -> Losses:
    """Eq. 4: L_ACT on the last pair + lambda L_ATT over all pairs.

    Returns:
        {"activation", "attention"}, weighted as they enter G; scalars.
    """
    return {
        "activation": activation_loss(to_float32(student_maps[-1]), to_float32(teacher_maps[-1])),
        "attention": attention_weight * attention_loss(student_maps, teacher_maps),
    }


class DistillationLoss(nn.Module):
    """Eq. 4 over paired layers of any two networks: maps (B, C, ...).

    Channels of the last pair may differ: a 1 x 1 projection of the student's map is learned with
    the student. Places may differ: the student's map is resized. Maps without places (B, C) have no
    attention, so L_ATT is over the others.

    Args:
        student_shapes, teacher_shapes: shapes of the maps without the batch, in pairs.
        attention_weight: lambda of Eq. 4.
    """

    def __init__(
        self,
        student_shapes: Sequence[Sequence[int]],
        teacher_shapes: Sequence[Sequence[int]],
        attention_weight: float = ATTENTION_WEIGHT,
    ) -> None:
        super().__init__()
        if len(student_shapes) != len(teacher_shapes) or not student_shapes:
            raise ValueError(
                f"expected paired layers, got {len(student_shapes)} of the student and "
                f"{len(teacher_shapes)} of the teacher"
            )
        self.attention_weight = attention_weight
        mine, theirs = student_shapes[-1][0], teacher_shapes[-1][0]
        self.project = nn.Identity() if mine == theirs else nn.Conv2d(mine, theirs, 1)

    def forward(self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Losses:
        """Returns {"activation", "attention"}, weighted as they enter G; scalars."""
        pairs = zip(student_maps, teacher_maps, strict=True)
        mine = [as_picture(resize_like(student, teacher)) for student, teacher in pairs]
        theirs = [as_picture(teacher) for teacher in teacher_maps]
        projected = self.project(to_float32(mine[-1]))
        activation = activation_loss(to_float32(projected), to_float32(theirs[-1]))
        with_places = [i for i, teacher in enumerate(theirs) if teacher[0, 0].numel() > 1]
        attention = projected.new_zeros(())
        if with_places:
            attention = attention_loss(
                [mine[i] for i in with_places], [theirs[i] for i in with_places]
            )
        return {"activation": activation, "attention": self.attention_weight * attention}


def as_picture(features: Float[Tensor, "b c *places"]) -> Float[Tensor, "b c h w"]:
    """Maps (B, C), (B, C, L), (B, C, H, W) or (B, C, D, H, W) as (B, C, H, W)."""
    if features.dim() > 4:
        return features.flatten(3)
    return features.reshape(*features.shape, *(1 for _ in range(4 - features.dim())))


def resize_like(features: Float[Tensor, "b c *places"], other: Tensor) -> Tensor:
    """`features` with the places of `other`, which has as many dimensions of places.

    Raises:
        ValueError: the number of dimensions differs.
    """
    if features.shape[2:] == other.shape[2:]:
        return features
    if features.dim() != other.dim():
        raise ValueError(
            f"the student's map has shape {tuple(features.shape)}, the teacher's "
            f"{tuple(other.shape)}: expected as many dimensions"
        )
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[features.dim()]
    return F.interpolate(
        to_float32(features), size=other.shape[2:], mode=mode, antialias=mode == "bilinear"
    )


def _expect_same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} has shape {tuple(a.shape)}, {name_b} has {tuple(b.shape)}: expected the same"
        )
