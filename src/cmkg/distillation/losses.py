"""Eqs. 1-4 and 8 of Zhao et al. (CVPR 2020), as functions of predictions and feature maps.

Every loss sums over coordinates, channels and places, as in the paper, and averages over the batch.

One file: Eqs. 1 to 4 and the checks that they share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..batch import Batch, labelled_numbers, labelled_part
from ..containers import count_samples, tensors_of
from ..errors import InputError
from ..runtime.distributed import sum_over_ranks
from ..runtime.ranks import world_size
from .layouts import Layout, example_map, lay_mask, lay_mask_over_output, lay_pair

ATTENTION_WEIGHT = 1e3  # lambda of Eq. 4
Value = TypeVar("Value")
Losses = dict[str, Tensor]


def regression_loss(prediction: Any, target: Any) -> Float[Tensor, ""]:
    """Eq. 1: ||f(x) - y||^2 of tensors (B, ...), summed over all but B, averaged over the batch.

    Raises:
        InputError: If the shapes differ.

    >>> import torch
    >>> regression_loss(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(3.)
    """
    for what, value in (("prediction", prediction), ("target", target)):
        if not isinstance(value, Tensor):
            raise InputError(
                f"the {what} is a {type(value).__name__}, no tensor: give a loss of your own, "
                "loss=lambda prediction, target: ..."
            )
    expect_same_shape("prediction", prediction, "target", target)
    squares = (prediction - target).square()
    return squares.mean() if squares.dim() < 2 else squares.flatten(1).sum(1).mean()


def activation_loss(
    student_map: Float[Tensor, "b ..."], teacher_map: Float[Tensor, "b2 ..."]
) -> Float[Tensor, ""]:
    """Eq. 2: ||Q_l(x; f) - Q_l(x~; g)||^2 of the last feature maps (B, C, H, W).

    Raises:
        InputError: If the shapes differ.
    """
    expect_same_shape("the student's feature map", student_map, "the teacher's", teacher_map)
    return (student_map - teacher_map).square().flatten(1).sum(1).mean()


def to_float32(value: Value) -> Value:
    """Converts half precision to float32, and leaves other values unchanged.

    Sums of squares overflow in float16, or lose accuracy in bfloat16's 8 bits of mantissa.
    """
    if isinstance(value, Tensor) and value.is_floating_point() and value.element_size() < 4:
        return value.float()  # type: ignore[return-value]
    return value


def attention_map(
    features: Float[Tensor, "b c *places"], eps: float = 1e-12
) -> Float[Tensor, "b hw"]:
    """Returns A, the sum of Q^2 over channels, flattened over places and scaled to unit length.

    Raises:
        InputError: If the map has no places.
    """
    if features.dim() < 3:
        raise InputError(
            f"attention is over places: a map of shape {tuple(features.shape)} has none; expected "
            "(B, C, places)"
        )
    squares = to_float32(features).square().sum(1).flatten(1)
    return squares / squares.norm(dim=1, keepdim=True).clamp_min(eps)


def attention_loss(
    student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]
) -> Float[Tensor, ""]:
    """Eq. 3: sum over the paired layers of ||A_j(f) - A_j(g)||^2.

    It takes lists of (B, C_j, H_j, W_j). Student and teacher may differ in channels, not in places.

    Raises:
        InputError: If the layers are not paired, or their places differ.
    """
    if len(student_maps) != len(teacher_maps) or not student_maps:
        raise InputError(
            f"attention needs paired layers: {len(student_maps)} of the student, "
            f"{len(teacher_maps)} of the teacher"
        )
    total = student_maps[0].new_zeros((), dtype=to_float32(student_maps[0]).dtype)
    for student_map, teacher_map in zip(student_maps, teacher_maps, strict=True):
        student, teacher = attention_map(student_map), attention_map(teacher_map)
        expect_same_shape("the student's attention map", student, "the teacher's", teacher)
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


def zero_padding(features: Tensor, mask: Tensor | None) -> Tensor:
    """Returns a map (B, C, *places) with zeros where the mask (B, 1, *places) is False."""
    return features if mask is None else features.masked_fill(~mask, 0.0)


def lay_masks(
    mask: Tensor | None, maps: Sequence[Tensor], drop_tokens: Sequence[tuple[int, int]]
) -> list[Tensor | None]:
    """Returns the mask for each pair's maps (B, C, H, W), None for those without places.

    Raises:
        InputError: If the mask does not fit.
    """
    if mask is None:
        return [None] * len(maps)
    return [
        lay_mask(mask, features.shape[2:], max(drops)) if features[0, 0].numel() > 1 else None
        for features, drops in zip(maps, drop_tokens, strict=True)
    ]


def lay_pairs(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    layouts: Sequence[tuple[Layout, Layout]],
    drop_tokens: Sequence[tuple[int, int]],
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns both networks' maps as (B, C, H, W), the student's at the teacher's places.

    Raises:
        InputError: If the maps cannot be aligned.
    """
    mine, theirs = [], []
    for student, teacher, layout, drops in zip(
        student_maps, teacher_maps, layouts, drop_tokens, strict=True
    ):
        student_map, teacher_map = lay_pair(student, teacher, layout, drops)
        mine.append(as_feature_map(student_map))
        theirs.append(as_feature_map(teacher_map))
    return mine, theirs


def expect_pairs(
    student_shapes: Sequence[Sequence[int]],
    teacher_shapes: Sequence[Sequence[int]],
    layouts: Sequence[tuple[Layout, Layout]] | None,
    drop_tokens: Sequence[tuple[int, int]] | None,
) -> tuple[list[tuple[Layout, Layout]], list[tuple[int, int]], list[tuple[int, int]]]:
    """Returns layouts, tokens to drop, and both networks' channels, for each pair of maps.

    Raises:
        InputError: If maps cannot be compared.
    """
    count = len(student_shapes)
    if count != len(teacher_shapes) or not count:
        raise InputError(
            f"expected paired layers, got {count} of the student and "
            f"{len(teacher_shapes)} of the teacher"
        )
    if layouts is None:
        pairs = zip(student_shapes, teacher_shapes, strict=True)
        layouts = [(_usual_layout(mine), _usual_layout(theirs)) for mine, theirs in pairs]
    drops = list(drop_tokens or [(0, 0)] * count)
    mine, theirs = lay_pairs(
        [
            example_map(s, student_layout)
            for s, (student_layout, _) in zip(student_shapes, layouts, strict=True)
        ],
        [
            example_map(t, teacher_layout)
            for t, (_, teacher_layout) in zip(teacher_shapes, layouts, strict=True)
        ],
        layouts,
        drops,
    )
    channels = [(a.shape[1], b.shape[1]) for a, b in zip(mine, theirs, strict=True)]
    return list(layouts), drops, channels


class DistillationLoss(nn.Module):
    """Eq. 4 over paired layers of any two networks.

    If the last pair's channels differ, a 1 x 1 projection of the student's map is learned with the
    student. If grids differ in size, the student's map is resized. Maps without places (B, C) have
    no attention, so L_ATT covers the others.

    Args:
        student_shapes, teacher_shapes: Paired shapes of the maps without the batch, deepest last.
        attention_weight: lambda of Eq. 4.
        layouts: For each pair, the layouts of both maps (layouts.Layout). None assumes (B, C),
            (B, C, H, W) or (B, C, D, H, W); maps of three dimensions need a layout.
        drop_tokens: For each pair, how many special tokens of both maps are dropped.

    Raises:
        InputError: If maps cannot be compared.
    """

    def __init__(
        self,
        student_shapes: Sequence[Sequence[int]],
        teacher_shapes: Sequence[Sequence[int]],
        attention_weight: float = ATTENTION_WEIGHT,
        layouts: Sequence[tuple[Layout, Layout]] | None = None,
        drop_tokens: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        super().__init__()
        self.attention_weight = attention_weight
        self.layouts, self.drop_tokens, channels = expect_pairs(
            student_shapes, teacher_shapes, layouts, drop_tokens
        )
        a, b = channels[-1]
        self.project = nn.Identity() if a == b else nn.Conv2d(a, b, 1)

    def compared(
        self, student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Returns both networks' maps, aligned; see `lay_pairs`."""
        return lay_pairs(student_maps, teacher_maps, self.layouts, self.drop_tokens)

    def forward(
        self,
        student_maps: Sequence[Tensor],
        teacher_maps: Sequence[Tensor],
        mask: Tensor | None = None,
    ) -> Losses:
        """Returns {"activation", "attention"}, weighted as they enter G; scalars.

        Args:
            student_maps, teacher_maps: The maps of the paired layers.
            mask: Bool (B, *places), True where there is content; other places are ignored.

        Raises:
            InputError: If maps or mask do not fit.
        """
        mine, theirs = self.compared(student_maps, teacher_maps)
        masks = lay_masks(mask, theirs, self.drop_tokens)
        if mask is not None:
            refuse_resized(student_maps, teacher_maps, self.layouts, self.drop_tokens)
            mine = [
                zero_padding(features, where) for features, where in zip(mine, masks, strict=True)
            ]
            theirs = [
                zero_padding(features, where) for features, where in zip(theirs, masks, strict=True)
            ]
        deepest = to_float32(mine[-1])
        if isinstance(self.project, nn.Conv2d):
            deepest = deepest.to(self.project.weight.dtype)
        projected = zero_padding(self.project(deepest), masks[-1])
        activation = activation_loss(to_float32(projected), to_float32(theirs[-1]))
        with_places = [i for i, teacher in enumerate(theirs) if teacher[0, 0].numel() > 1]
        attention = projected.new_zeros(())
        if with_places:
            attention = attention_loss(
                [mine[i] for i in with_places], [theirs[i] for i in with_places]
            )
        return {"activation": activation, "attention": self.attention_weight * attention}


def refuse_resized(
    student_maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    layouts: Sequence[tuple[Layout, Layout]],
    drop_tokens: Sequence[tuple[int, int]],
) -> None:
    """Refuses a mask with maps that are resized, which would mix content and padding."""
    for mine, theirs, both, drops in zip(
        student_maps, teacher_maps, layouts, drop_tokens, strict=True
    ):
        counts = []
        for maps, layout, drop in zip((mine, theirs), both, drops, strict=True):
            sizes = zip(maps.shape, layout, strict=True)
            counts.append(math.prod(n for n, letter in sizes if letter not in "BC") - drop)
        if counts[0] != counts[1]:
            raise InputError(
                f"mask: the student's map has {counts[0]} places, the teacher's {counts[1]}: "
                "resizing would mix padding into content; pair layers of equal places"
            )


def _usual_layout(shape: Sequence[int]) -> Layout:
    known: dict[int, Layout] = {1: "BC", 3: "BCHW", 4: "BCDHW"}
    if len(shape) not in known:
        raise InputError(
            f"a map of shape (B, {', '.join(map(str, shape))}): its layout is not clear, it may be "
            "tokens (BNC) or a sequence of channels (BCL); say which with layouts= or "
            "Pair(layout=)"
        )
    return known[len(shape)]


def as_feature_map(features: Float[Tensor, "b c *places"]) -> Float[Tensor, "b c h w"]:
    """Reshapes maps (B, C), (B, C, L), (B, C, H, W) or (B, C, D, H, W) to (B, C, H, W)."""
    if features.dim() > 4:
        return features.flatten(3)
    return features.reshape(*features.shape, *(1 for _ in range(4 - features.dim())))


def expect_loss(loss: object) -> None:
    """Refuses a loss that is a class or is not callable.

    Raises:
        InputError: If `loss` is a class or not callable.
    """
    if isinstance(loss, type):
        raise InputError(f"loss: got the class {loss.__name__}; give {loss.__name__}(), one of it")
    if not callable(loss):
        raise InputError(
            f"loss: expected a function of prediction and target, got {type(loss).__name__}; "
            "a prior is given as prior="
        )


def loss_of_labelled(loss: Callable[[Any, Any], Any], prediction: Any, batch: Batch) -> Tensor:
    """Returns L_REG of a batch, the loss of its labeled samples.

    Without labels it is 0 but keeps the graph to all trained parameters, so that every process has
    the same terms.

    Raises:
        InputError: If the loss is not a scalar, predictions or targets are not one per sample, or
            there is no target.
    """
    prediction = to_float32(prediction)
    if batch.mask is not None and loss is regression_loss:
        prediction, target = _without_padding(prediction, batch.target, batch.mask)
        batch = batch._replace(target=target)
    numbers = labelled_numbers(batch)
    share = _share_of_labels(batch, numbers)
    if numbers is None:
        return share * to_scalar(loss(prediction, batch.target))
    if batch.target is None:
        raise InputError("labelled= without target=: say with Fields(target=...) where labels are")
    if not len(numbers):
        trained = [*loss.parameters()] if isinstance(loss, nn.Module) else []
        parts = [part for part in tensors_of(prediction) if part.is_floating_point()]
        if not parts:
            raise InputError(
                "a batch without labels: found no float tensor in the student's output "
                f"({type(prediction).__name__})"
            )
        return torch.stack([part.flatten()[:0].sum() for part in (*parts, *trained)]).sum()
    count = count_samples(batch.student_input)
    predicted = labelled_part(prediction, numbers, count, "student's output")
    return share * to_scalar(loss(predicted, labelled_part(batch.target, numbers, count, "target")))


def _share_of_labels(batch: Batch, numbers: Tensor | None) -> float:
    """Returns the weight that makes the mean over processes equal the mean over all labels.

    It is 1 on a single process, or if all samples have a label.
    """
    if batch.labelled is None or world_size() == 1 or not torch.is_grad_enabled():
        return 1.0
    labels = count_samples(batch.student_input) if numbers is None else len(numbers)
    total = sum_over_ranks({"labelled": float(labels)})["labelled"]
    return labels * world_size() / total if total else 1.0


def _without_padding(prediction: Any, target: Any, mask: Tensor) -> tuple[Any, Any]:
    """Returns predictions and targets (B, *places, ...) with zeros at padding.

    Outputs with one vector per sample have no padding.
    """
    if not isinstance(prediction, Tensor) or not isinstance(target, Tensor):
        return prediction, target
    expect_same_shape("prediction", prediction, "target", target)
    where = lay_mask_over_output(mask, prediction, "predictions")
    if where is None:
        return prediction, target
    return prediction.masked_fill(~where, 0.0), target.masked_fill(~where, 0.0)


def to_scalar(value: Any, what: str = "the loss", needs_graph: bool = True) -> Tensor:
    """Converts a loss to a scalar: one number, or a dict of them (from detectors), which is summed.

    Args:
        value: The value that the loss returned.
        what: Its name in error messages.
        needs_graph: Whether it must depend on a trained weight.

    Raises:
        InputError: If it is anything else: per-sample values, a tuple, a Python number, or without
            a gradient.
    """
    if isinstance(value, Mapping) and value:
        parts = [to_scalar(part, f"{what}'s {name!r}", needs_graph) for name, part in value.items()]
        return torch.stack(parts).sum()
    if not isinstance(value, Tensor):
        raise InputError(
            f"{what}: expected a scalar tensor, or a dict of such, got {type(value).__name__}; "
            "return the loss alone, as a tensor with its graph"
        )
    if value.numel() != 1:
        raise InputError(
            f"{what} has shape {tuple(value.shape)}: expected a scalar; take the mean over samples"
        )
    if not value.is_floating_point():
        raise InputError(f"{what} is {value.dtype}: expected a float that depends on the weights")
    if needs_graph and torch.is_grad_enabled() and not value.requires_grad:
        raise InputError(
            f"{what} does not depend on any trained weight: was the prediction detached, or is "
            "everything frozen?"
        )
    return value.reshape(())


def expect_same_shape(name_a: str, a: Tensor, name_b: str, b: Tensor) -> None:
    """Refuses two tensors of different shapes."""
    if a.shape != b.shape:
        raise InputError(
            f"{name_a} has shape {tuple(a.shape)}, {name_b} has {tuple(b.shape)}: expected the same"
        )


Loss = Callable[[Any, Any], Any]


CriterionName = Literal["paper", "features", "classes", "numbers"]


Criterion = Callable[..., Mapping[str, Tensor]]  # takes the student's and the teacher's maps
