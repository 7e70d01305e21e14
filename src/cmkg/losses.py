"""Eqs. 1-4 and 8 of Zhao et al. (CVPR 2020), as functions of predictions and feature maps.

Every loss sums over coordinates, channels and places, as the paper writes it, and takes the mean
over the batch.
"""

import torch.nn.functional as F
from torch import Tensor, nn

ATTENTION_WEIGHT = 1e3  # lambda of Eq. 4


def regression_loss(prediction, target):
    """Eq. 1: ||f(x) - y||^2, summed over all but the batch, mean over the batch. Shapes (B, ...),
    scalar.

    >>> import torch
    >>> regression_loss(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(3.)
    """
    _same_shape("prediction", prediction, "target", target)
    return (prediction - target).square().flatten(1).sum(1).mean()


def activation_loss(student_map, teacher_map):
    """Eq. 2: ||Q_l(x; f) - Q_l(x~; g)||^2 of the last feature maps (B, C, H, W); mean over the
    batch."""
    _same_shape("the student's feature map", student_map, "the teacher's", teacher_map)
    return (student_map - teacher_map).square().flatten(1).sum(1).mean()


def widened(t):
    """Half precisions as float32, others as they are: sums of squares overflow or drown in 8
    bits of mantissa."""
    return (
        t.float() if isinstance(t, Tensor) and t.is_floating_point() and t.element_size() < 4 else t
    )


def attention_map(features, eps=1e-12):
    """A = sum over channels of Q^2, flattened over H x W, with unit length: (B, C, H, W) -> (B,
    H*W)."""
    squares = widened(features).square().sum(1).flatten(1)
    return squares / squares.norm(dim=1, keepdim=True).clamp_min(eps)


def attention_loss(student_maps, teacher_maps):
    """Eq. 3: sum over the paired layers of ||A_j(f) - A_j(g)||^2; mean over the batch.

    Lists of (B, C_j, H_j, W_j); channels may differ between student and teacher, H_j and W_j may
    not.
    """
    if len(student_maps) != len(teacher_maps):
        raise ValueError(
            f"attention needs paired layers: {len(student_maps)} of the student, "
            f"{len(teacher_maps)} of the teacher"
        )
    pairs = [
        (attention_map(s), attention_map(t))
        for s, t in zip(student_maps, teacher_maps, strict=True)
    ]
    for s, t in pairs:
        _same_shape("the student's attention map", s, "the teacher's", t)
    return sum((s - t).square().sum(1).mean() for s, t in pairs)


def distillation_loss(student_maps, teacher_maps, attention_weight=ATTENTION_WEIGHT):
    """Eq. 4: L_ACT on the last pair + lambda * L_ATT over all pairs. Returns {"activation",
    "attention"}, weighted."""
    return {
        "activation": activation_loss(widened(student_maps[-1]), widened(teacher_maps[-1])),
        "attention": attention_weight * attention_loss(student_maps, teacher_maps),
    }


class DistillationLoss(nn.Module):
    """Eq. 4 over paired layers of any two networks: maps (B, C, ...) whose channels and places may
    differ.

    Channels of the last pair: a 1 x 1 projection of the student's map, learned with the student.
    Places: the student's map is resized. Maps without places (B, C) have no attention, so L_ATT
    is over the others. student_shapes, teacher_shapes: shapes of the maps without the batch, in
    pairs.
    """

    def __init__(self, student_shapes, teacher_shapes, attention_weight=ATTENTION_WEIGHT):
        super().__init__()
        if len(student_shapes) != len(teacher_shapes) or not student_shapes:
            raise ValueError(
                f"expected paired layers, got {len(student_shapes)} of the student and "
                f"{len(teacher_shapes)} of the teacher"
            )
        self.attention_weight = attention_weight
        mine, theirs = student_shapes[-1][0], teacher_shapes[-1][0]
        self.project = nn.Identity() if mine == theirs else nn.Conv2d(mine, theirs, 1)

    def forward(self, student_maps, teacher_maps):
        """{"activation", "attention"}, weighted; scalars."""
        mine = [
            as_picture(resized_like(s, t)) for s, t in zip(student_maps, teacher_maps, strict=True)
        ]
        theirs = [as_picture(t) for t in teacher_maps]
        projected = self.project(widened(mine[-1]))
        places = [i for i, t in enumerate(theirs) if t[0, 0].numel() > 1]
        attention = (
            attention_loss([mine[i] for i in places], [theirs[i] for i in places])
            if places
            else projected.new_zeros(())
        )
        return {
            "activation": activation_loss(widened(projected), widened(theirs[-1])),
            "attention": self.attention_weight * attention,
        }


def as_picture(t):
    """Maps (B, C), (B, C, L), (B, C, H, W) or (B, C, D, H, W) as (B, C, H, W)."""
    return t.flatten(3) if t.dim() > 4 else t.reshape(*t.shape, *(1 for _ in range(4 - t.dim())))


def resized_like(t, other):
    """t (B, C, ...) with the places of `other`, which has as many dimensions of places."""
    if t.shape[2:] == other.shape[2:]:
        return t
    if t.dim() != other.dim():
        raise ValueError(
            f"the student's map has shape {tuple(t.shape)}, the teacher's "
            f"{tuple(other.shape)}: expected as many dimensions"
        )
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[t.dim()]
    return F.interpolate(
        widened(t),
        size=other.shape[2:],
        mode=mode,
        **({"antialias": True} if mode == "bilinear" else {}),
    )


def _same_shape(name_a, a, name_b, b):
    if a.shape != b.shape:
        raise ValueError(
            f"{name_a} has shape {tuple(a.shape)}, {name_b} has {tuple(b.shape)}: expected the same"
        )
