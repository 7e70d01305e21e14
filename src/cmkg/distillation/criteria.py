"""Alternatives to the paper's Eq. 4: losses on the networks' outputs and on normalized features.

Each criterion maps the student's and the teacher's maps of the paired layers to {name: scalar},
weighted as it enters G. Pass one to Distiller, distill or learn_prior as criterion=.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import InputError
from .layouts import Layout, lay_mask, lay_mask_over_output
from .losses import (
    Losses,
    attention_map,
    expect_pairs,
    expect_same_shape,
    lay_masks,
    lay_pairs,
    refuse_resized,
    regression_loss,
    to_float32,
    zero_padding,
)

OutputKind = Literal["classes", "numbers"]


class OutputLoss(nn.Module):
    """Uses the teacher's outputs as labels: maps (student's maps, teacher's maps) to {"outputs"}.

    A criterion for Distiller on the networks' outputs, or on the last pair if pairs are given. It
    needs no labels: it adds to L_REG on labeled samples, and replaces it on unlabeled ones
    (Batch.target None, Batch.labelled).

    Args:
        kind: "classes" for logits: the Kullback-Leibler divergence from the teacher's tempered
            softmax, times temperature^2 (Hinton, Vinyals and Dean, 2015), averaged over the batch
            and over places. "numbers" for (B, ...): the squared distance, summed as in Eq. 1.
        weight: The weight of the term in G.
        temperature: The softmax temperature for "classes".
        dim: The class dimension of the logits: 1 for (B, C, H, W), -1 for token logits (B, L, C).
            None means 1 for (B, C); with more dimensions, Distiller infers it from the target or
            the network, or raises an error.

    Raises:
        InputError: If the kind is unknown, or a number is out of range.
    """

    def __init__(
        self,
        kind: OutputKind,
        weight: float = 1.0,
        temperature: float = 1.0,
        dim: int | None = None,
    ) -> None:
        super().__init__()
        if kind not in get_args(OutputKind):
            raise InputError(f'OutputLoss: expected "classes" or "numbers", got {kind!r}')
        if not (0 <= weight < float("inf") and 0 < temperature < float("inf")):
            raise InputError(
                f"OutputLoss: expected a weight from 0 and a positive temperature, got {weight} "
                f"and {temperature}"
            )
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int) or dim == 0):
            raise InputError(
                f"OutputLoss: dim is the number of the classes' dimension (0 is the batch), got "
                f"{dim!r}"
            )
        self.kind = kind
        self.weight = weight
        self.temperature = temperature
        self.dim = dim

    def forward(
        self,
        student_maps: Sequence[Tensor],
        teacher_maps: Sequence[Tensor],
        mask: Tensor | None = None,
        dim: int | None = None,
    ) -> Losses:
        """Returns {"outputs"}, weighted as it enters G; a scalar.

        Args:
            student_maps, teacher_maps: The maps; the last of each is compared.
            mask: Bool (B, *places); places where it is False (padding) are ignored.
            dim: The class dimension, if the constructor did not set it.

        Raises:
            InputError: If the two outputs differ in shape, the class dimension is ambiguous, or
                the mask does not fit.
        """
        student, teacher = to_float32(student_maps[-1]), to_float32(teacher_maps[-1])
        expect_same_shape("student's output", student, "teacher's output", teacher)
        if self.kind == "numbers":
            where = None if mask is None else lay_mask_over_output(mask, student, "outputs")
            if where is not None:
                student, teacher = (
                    student.masked_fill(~where, 0.0),
                    teacher.masked_fill(~where, 0.0),
                )
            return {"outputs": self.weight * regression_loss(student, teacher)}
        classes = self._class_dim(student, dim)
        known = (teacher / self.temperature).log_softmax(classes)
        learned = (student / self.temperature).log_softmax(classes)
        divergence = (known.exp() * (known - learned)).sum(classes)
        if mask is not None and divergence.dim() > 1:
            there = lay_mask(mask, divergence.shape[1:]).squeeze(1)
            mean = divergence.masked_fill(~there, 0.0).sum() / there.sum().clamp_min(1)
        else:
            mean = divergence.mean()
        return {"outputs": self.weight * self.temperature**2 * mean}

    def needs_dim(self, output: Tensor) -> bool:
        """Returns whether the class dimension is ambiguous from an output's shape alone."""
        return self.kind == "classes" and self.dim is None and output.dim() > 2

    def _class_dim(self, output: Tensor, found: int | None) -> int:
        shape = tuple(output.shape)
        if output.dim() < 2:
            raise InputError(f"expected logits (B, C, ...), got shape {shape}")
        dim = self.dim if self.dim is not None else found
        if dim is None and output.dim() == 2:
            return _with_several(1, shape)
        if dim is None:
            raise InputError(
                f"logits of shape {shape}: which dimension holds the classes is not clear; say it "
                'with criterion=OutputLoss("classes", dim=1) for (B, C, ...), dim=-1 for token '
                "logits (B, L, C)"
            )
        if not -output.dim() < dim < output.dim():
            raise InputError(f"OutputLoss: dim={dim}, the logits have shape {shape}")
        return _with_several(dim % output.dim(), shape)


def _with_several(dim: int, shape: tuple[int, ...]) -> int:
    if shape[dim] < 2:
        raise InputError(
            f"logits of shape {shape} have one class in dimension {dim}, whose softmax is always "
            '1: of one logit for yes and no give two, (0, logit), or criterion="numbers"'
        )
    return dim


class FeatureLoss(nn.Module):
    """Compares normalized features: maps (student's maps, teacher's maps) to {"features"}.

    The student's map goes through a learned 1 x 1 projection, even if the widths are equal. Both
    maps' channels are standardized over the batch and its places, as by BatchNorm without weights
    (arXiv 2303.11098, 2310.17183). The term is the mean squared difference over places and
    channels, 2 (1 - r) for a channel of correlation r, summed over pairs.

    Args:
        student_shapes, teacher_shapes, layouts, drop_tokens: See DistillationLoss.
        weight: The weight of the term in G.
        foreground: Uses only places where the teacher's attention (Eq. 3) exceeds its mean in the
            sample, because an empty background carries no information.
        predictable: Weights each channel's gradient to the student by r^2, the running estimate of
            the variance that the student explains; the rest only trains the projection.

    Raises:
        InputError: If maps cannot be compared, or the weight is below 0.
    """

    explained: Tensor

    def __init__(
        self,
        student_shapes: Sequence[Sequence[int]],
        teacher_shapes: Sequence[Sequence[int]],
        weight: float = 1.0,
        layouts: Sequence[tuple[Layout, Layout]] | None = None,
        drop_tokens: Sequence[tuple[int, int]] | None = None,
        foreground: bool = True,
        predictable: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= weight < float("inf"):
            raise InputError(f"FeatureLoss: expected a weight from 0, got {weight}")
        self.weight = weight
        self.foreground = foreground
        self.predictable = predictable
        self.layouts, self.drop_tokens, channels = expect_pairs(
            student_shapes, teacher_shapes, layouts, drop_tokens
        )
        self.projections = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in channels)
        self.widths = [b for _, b in channels]
        self.register_buffer("explained", torch.zeros(sum(self.widths)))

    def forward(
        self,
        student_maps: Sequence[Tensor],
        teacher_maps: Sequence[Tensor],
        mask: Tensor | None = None,
    ) -> Losses:
        """Returns {"features"}, weighted as it enters G; a scalar.

        mask: Bool (B, *places); places where it is False (padding) are ignored.
        """
        mine, theirs = lay_pairs(student_maps, teacher_maps, self.layouts, self.drop_tokens)
        masks = lay_masks(mask, theirs, self.drop_tokens)
        if mask is not None:
            refuse_resized(student_maps, teacher_maps, self.layouts, self.drop_tokens)
            mine = [
                zero_padding(features, where) for features, where in zip(mine, masks, strict=True)
            ]
        shares = self.explained.clone().split(self.widths)  # copied: the graph uses it
        total = mine[0].new_zeros((), dtype=torch.float32)
        correlations = []
        for student_map, teacher_map, project, share, where in zip(
            mine, theirs, self.projections, shares, masks, strict=True
        ):
            teacher = zero_padding(to_float32(teacher_map), where)
            inside = zero_padding(torch.ones_like(teacher[:, :1]), where)
            if self.foreground:
                inside = foreground_of(teacher, inside)
            teacher = standardise(teacher, inside)
            mine_there = student_map.to(next(project.parameters()).dtype)
            value = _errors(to_float32(project(mine_there)), teacher, inside)
            if self.predictable:
                apart = _errors(to_float32(project(mine_there.detach())), teacher, inside)
                correlations.append(1 - apart.detach() / 2)  # each channel's correlation
                value = share * value + (1 - share) * apart
            total = total + value.mean()
        if self.predictable and self.training and torch.is_grad_enabled():
            with torch.no_grad():
                now = torch.cat(correlations).clamp(0, 1).square()
                self.explained.lerp_(now.to(self.explained.dtype), MOMENTUM)
        return {"features": self.weight * total}


MOMENTUM = 0.05  # of FeatureLoss.explained, per batch


def foreground_of(
    features: Float[Tensor, "b c h w"], content: Float[Tensor, "b 1 h w"] | None = None
) -> Float[Tensor, "b 1 h w"]:
    """Returns 1 where a map's attention (Eq. 3) exceeds its mean, otherwise 0; all 1 if nowhere.

    content: 1 at content, 0 at padding, where the map is zero; None means no padding.
    """
    attention = attention_map(features)
    counts = torch.ones_like(attention) if content is None else content.flatten(1)
    mean = attention.sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp_min(1)
    inside = (attention > mean).float()
    inside = torch.where(inside.sum(1, keepdim=True) > 0, inside, counts)
    return inside.view(len(features), 1, *features.shape[2:])


def standardise(
    features: Float[Tensor, "b c h w"], inside: Float[Tensor, "b 1 h w"]
) -> Float[Tensor, "b c h w"]:
    """Scales channels to mean 0 and variance 1 over the batch's places inside the mask."""
    count = inside.sum().clamp_min(1)
    centred = features - (features * inside).sum((0, 2, 3), keepdim=True) / count
    variance = (centred.square() * inside).sum((0, 2, 3), keepdim=True) / count
    return centred * (variance + 1e-5).rsqrt()


def _errors(own: Tensor, teacher: Tensor, inside: Tensor) -> Float[Tensor, " c"]:
    """Returns the mean squared difference of each channel over the places inside the mask."""
    apart = (standardise(own, inside) - teacher).square() * inside
    return apart.sum((0, 2, 3)) / inside.sum().clamp_min(1)
