"""Eqs. 1-4 and 8 of Zhao et al. (CVPR 2020), as functions of predictions and feature maps.

Every loss sums over coordinates, channels and places, as the paper writes it, and takes the mean over the batch.
"""

ATTENTION_WEIGHT = 1e3  # lambda of Eq. 4


def regression_loss(prediction, target):
    """Eq. 1: ||f(x) - y||^2, summed over all but the batch, mean over the batch. Shapes (B, ...), scalar.

    >>> import torch
    >>> regression_loss(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(3.)
    """
    _same_shape("prediction", prediction, "target", target)
    return (prediction - target).square().flatten(1).sum(1).mean()


def activation_loss(student_map, teacher_map):
    """Eq. 2: ||Q_l(x; f) - Q_l(x~; g)||^2 of the last feature maps (B, C, H, W); mean over the batch."""
    _same_shape("the student's feature map", student_map, "the teacher's", teacher_map)
    return (student_map - teacher_map).square().flatten(1).sum(1).mean()


def widened(t):
    """Half precisions as float32, others as they are: sums of squares overflow or drown in 8 bits of mantissa."""
    return t.float() if t.element_size() < 4 else t


def attention_map(features, eps=1e-12):
    """A = sum over channels of Q^2, flattened over H x W, with unit length: (B, C, H, W) -> (B, H*W)."""
    squares = widened(features).square().sum(1).flatten(1)
    return squares / squares.norm(dim=1, keepdim=True).clamp_min(eps)


def attention_loss(student_maps, teacher_maps):
    """Eq. 3: sum over the paired layers of ||A_j(f) - A_j(g)||^2; mean over the batch.

    Lists of (B, C_j, H_j, W_j); channels may differ between student and teacher, H_j and W_j may not.
    """
    if len(student_maps) != len(teacher_maps):
        raise ValueError(
            f"attention needs paired layers: {len(student_maps)} of the student, {len(teacher_maps)} of the teacher"
        )
    pairs = [(attention_map(s), attention_map(t)) for s, t in zip(student_maps, teacher_maps, strict=True)]
    for s, t in pairs:
        _same_shape("the student's attention map", s, "the teacher's", t)
    return sum((s - t).square().sum(1).mean() for s, t in pairs)


def distillation_loss(student_maps, teacher_maps, attention_weight=ATTENTION_WEIGHT):
    """Eq. 4: L_ACT on the last pair + lambda * L_ATT over all pairs. Returns {"activation", "attention"}, weighted."""
    return {
        "activation": activation_loss(widened(student_maps[-1]), widened(teacher_maps[-1])),
        "attention": attention_weight * attention_loss(student_maps, teacher_maps),
    }


def _same_shape(name_a, a, name_b, b):
    if a.shape != b.shape:
        raise ValueError(f"{name_a} has shape {tuple(a.shape)}, {name_b} has {tuple(b.shape)}: expected the same")
