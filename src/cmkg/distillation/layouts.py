"""Names the dimensions of feature maps, and aligns two maps with each other.

A layout has one letter per dimension, as in einops: B batch, C channels, and places: H, W, D of a
grid, L of a sequence that may be resized, N of tokens that may not.

    BCHW  convolutions        BHWC  Swin, ConvNeXt's inside    BNC  transformers' tokens
    BCL   1-d convolutions    NBC   time first                 BC   hidden layers of an MLP
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError

Layout = Literal["BC", "BCHW", "BHWC", "BNC", "BCN", "NBC", "BCL", "BLC", "LBC", "BCDHW", "BDHWC"]
LAYOUTS = get_args(Layout)
CONVOLUTIONS = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
)


def channels_first(features: Tensor, layout: Layout, drop: int = 0) -> Tensor:
    """Returns the map as (B, C, *places), without the first `drop` tokens.

    Raises:
        InputError: If the layout is unknown or has another number of dimensions, or no token is
            left.
    """
    if layout not in LAYOUTS:
        raise InputError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")
    if features.dim() != len(layout):
        raise InputError(
            f"a map of shape {tuple(features.shape)} has not the layout {layout}: expected "
            f"{len(layout)} dimensions"
        )
    places = [at for at, letter in enumerate(layout) if letter not in "BC"]
    moved = features.permute(layout.index("B"), layout.index("C"), *places)
    if not drop:
        return moved
    if "N" not in layout or not 0 < drop < moved.shape[2]:
        raise InputError(
            f"drop_tokens={drop}: expected tokens (N in the layout, which is {layout}) and fewer "
            f"than there are, in a map of shape {tuple(features.shape)}"
        )
    return moved[:, :, drop:]


def lay_over(student: Tensor, teacher: Tensor, layouts: tuple[Layout, Layout]) -> Tensor:
    """Returns the student's map (B, C, *places) at the places of the teacher's.

    Grids and sequences are resized. Tokens become a grid if the other map is one and they fill it
    or their number is a square; two maps of tokens must have equally many.

    Raises:
        InputError: If the maps cannot be aligned.
    """
    mine, theirs = student.shape[2:], teacher.shape[2:]
    if mine == theirs:
        return student
    tokens = "N" in layouts[0], "N" in layouts[1]
    if all(tokens):
        raise InputError(
            f"the student has {mine[0]} tokens, the teacher {theirs[0]}: expected as many places; "
            "special tokens (CLS, registers) are left out with drop_tokens"
        )
    if tokens[0] and len(theirs) == 2:
        student = as_grid(student, theirs)
    elif tokens[1]:
        raise InputError(
            f"the teacher has {theirs[0]} tokens, the student places of shape {tuple(mine)}: "
            f"expected {math.prod(mine)} tokens; special tokens are left out with drop_tokens"
        )
    if student.dim() != teacher.dim():
        raise InputError(
            f"the student's map has places of shape {tuple(mine)}, the teacher's {tuple(theirs)}: "
            "expected as many dimensions"
        )
    return resize(student, theirs)


def lay_pair(
    student: Tensor, teacher: Tensor, layouts: tuple[Layout, Layout], drops: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Returns both maps as (B, C, *places), the student's at the places of the teacher's.

    Raises:
        InputError: If the maps cannot be aligned.
    """
    student_map = channels_first(student, layouts[0], drops[0])
    teacher_map = channels_first(teacher, layouts[1], drops[1])
    if "N" in layouts[1] and student_map.dim() == 4:  # a grid against the teacher's tokens
        teacher_map = as_grid(teacher_map, student_map.shape[2:])
    return lay_over(student_map, teacher_map, layouts), teacher_map


def lay_mask(mask: Tensor, places: Sequence[int], drop: int = 0) -> Tensor:
    """Returns a mask (B, *places) as (B, 1, *places) for an aligned map; True is content.

    A token mask may include or omit the dropped tokens; a grid mask may be flat.

    Raises:
        InputError: If its number of places differs from the map's, or it is not bool.
    """
    _expect_bool(mask)
    if drop and mask.dim() == 2 and mask.shape[1] == math.prod(places) + drop:
        mask = mask[:, drop:]
    if mask.dim() < 2 or mask.shape[1:].numel() != math.prod(places):
        raise InputError(
            f"mask: expected shape (B, {', '.join(map(str, places))}), the places of the maps "
            f"that are compared, got {tuple(mask.shape)}; give Fields(mask=) a function of the "
            "batch that gives it at these places"
        )
    return mask.reshape(len(mask), 1, *places)


def _expect_bool(mask: Tensor) -> None:
    if mask.dtype != torch.bool:
        raise InputError(
            f"mask: expected bool, True where there is content, got {mask.dtype}; give mask.bool()"
        )


def lay_mask_over_output(mask: Tensor, output: Tensor, what: str) -> Tensor | None:
    """Returns a mask (B, *places) that broadcasts over an output; None if it has no places.

    The output is (B, *places, ...) or (B, C, *places, ...).

    Raises:
        InputError: If the mask fits neither form, or both.
    """
    _expect_bool(mask)
    if output.dim() <= 2 and tuple(output.shape) != tuple(mask.shape):
        return None
    places, shape = tuple(mask.shape[1:]), tuple(output.shape)
    is_last, is_first = shape[1 : mask.dim()] == places, shape[2 : mask.dim() + 1] == places
    if is_last == is_first or mask.shape[0] != shape[0]:
        raise InputError(
            f"mask of shape {tuple(mask.shape)} beside {what} of shape {shape}: expected (B, "
            "*places, ...) or (B, C, *places), told apart by their sizes; leave padding out in a "
            "loss of your own, or give another mask"
        )
    laid = mask if is_last else mask.unsqueeze(1)
    return laid.reshape(*laid.shape, *(1 for _ in shape[laid.dim() :]))


def as_grid(features: Tensor, like: Sequence[int]) -> Tensor:
    """Returns tokens (B, C, N) as (B, C, H, W): of shape `like` if they fill it, or square."""
    count = features.shape[2]
    if count == math.prod(like):
        return features.unflatten(2, tuple(like))
    side = math.isqrt(count)
    if side * side != count:
        raise InputError(
            f"{count} tokens are no square grid and do not fill {tuple(like)} places: special "
            "tokens (CLS, registers) are left out with drop_tokens"
        )
    return features.unflatten(2, (side, side))


def example_map(shape: Sequence[int], layout: Layout) -> Tensor:
    """Returns a map without storage (meta device), a batch of one of the given shape."""
    whole = list(shape)
    whole.insert(layout.index("B"), 1)
    return torch.empty(whole, device="meta")


def resize(features: Tensor, places: Sequence[int]) -> Tensor:
    """Resizes (B, C, *places) to other places by linear interpolation."""
    if tuple(features.shape[2:]) == tuple(places):
        return features
    mode = {3: "linear", 4: "bilinear", 5: "trilinear"}[features.dim()]
    exact = features if features.element_size() >= 4 else features.float()
    return F.interpolate(exact, size=tuple(places), mode=mode, antialias=mode == "bilinear")


# ---- guessing ------------------------------------------------------------------------------------
def guess_layout(network: nn.Module, name: str, shape: Sequence[int], batch: int) -> Layout | None:
    """Infers the layout of a layer's output from its modules; None if it is ambiguous.

    Args:
        network: The network.
        name: The layer's name.
        shape: The output's shape, with the batch.
        batch: The number of input samples.
    """
    layer = network.get_submodule(name)
    if len(shape) == 2:
        return "BC" if shape[0] == batch else None
    if len(shape) == 3 and any(_is_time_first(part) for part in network.modules()):
        return "NBC" if _is_time_first(layer) else None  # the batch may be either of two dimensions
    if shape[0] != batch or len(shape) not in (3, 4, 5):
        return None
    if len(shape) == 3 and shape[1] == shape[2] and set(_last_sizes(network)):
        return None  # as many tokens as channels: a transposed map has the same shape
    of_convolutions: dict[int, Layout] = {3: "BCL", 4: "BCHW", 5: "BCDHW"}
    of_transformers: dict[int, Layout] = {3: "BNC", 4: "BHWC", 5: "BDHWC"}
    first, last = of_convolutions[len(shape)], of_transformers[len(shape)]
    is_first = shape[1] in set(_channel_counts(layer))
    is_last = shape[-1] in set(_last_sizes(layer))
    if is_first != is_last:
        return first if is_first else last
    channels, last_sizes = set(_channel_counts(network)), set(_last_sizes(network))
    is_first, is_last = shape[1] in channels, shape[-1] in last_sizes
    if len(shape) == 4 and shape[1] == shape[2] != shape[3]:  # a square map with channels last
        is_last = is_last or shape[-1] in channels
    if is_first != is_last:
        return first if is_first else last
    return None


def guess_class_dim(network: nn.Module, shape: Sequence[int], target: Any) -> int | None:
    """Infers the class dimension of logits; None if it is ambiguous.

    It uses a target of class indices, which has all other dimensions, and the number of outputs of
    the network's last layer. If the two disagree, the dimension is ambiguous.

    Args:
        network: The network that computes the logits.
        shape: The logits' shape, with the batch.
        target: The target, or None.
    """
    if len(shape) == 2:
        return 1
    told: list[list[int]] = []
    if isinstance(target, Tensor) and not target.is_floating_point() and target.dim():
        told.append(
            [at for at in range(1, len(shape)) if _without(shape, at) == tuple(target.shape)]
        )
    counts = [
        part.out_features if isinstance(part, nn.Linear) else part.out_channels
        for part in network.modules()
        if isinstance(part, (nn.Linear, nn.modules.conv._ConvNd))
    ]
    if counts:  # the last layer's outputs are the classes, in whichever dimension
        told.append([at for at in range(1, len(shape)) if shape[at] == counts[-1]])
    dims_left = {dims[0] for dims in told if len(dims) == 1}
    return dims_left.pop() if len(dims_left) == 1 else None


def _without(shape: Sequence[int], at: int) -> tuple[int, ...]:
    return (*shape[:at], *shape[at + 1 :])


def _is_time_first(layer: nn.Module) -> bool:
    """Returns whether it, or a layer inside it, has time before the batch."""
    return any(getattr(part, "batch_first", None) is False for part in layer.modules())


def _channel_counts(module: nn.Module) -> Iterator[int]:
    """Yields the channel counts of its convolutions and their normalization layers."""
    for part in module.modules():
        if isinstance(part, CONVOLUTIONS):
            for name in ("in_channels", "out_channels", "num_features", "num_channels"):
                yield getattr(part, name, 0)


def _last_sizes(module: nn.Module) -> Iterator[int]:
    """Yields the sizes of the last dimension that its other layers work on."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            yield part.normalized_shape[-1]
        for name in ("out_features", "embedding_dim", "hidden_size", "embed_dim"):
            size = getattr(part, name, 0)
            if isinstance(size, int):
                yield size
        if isinstance(part, nn.RNNBase) and part.bidirectional:
            yield 2 * part.hidden_size
