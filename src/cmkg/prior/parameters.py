"""Selects the parameters that carry phi, and defines phi's shapes and weight fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..modules import as_weights, named_weights, unwrap, without_prefix

if TYPE_CHECKING:
    pass

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # buffers in a state_dict


Select = Literal["weights", "all"] | Callable[[str, Tensor], bool]


Granularity = Literal["weight", "filter", "layer"]


GRANULARITIES = get_args(Granularity)


Tensors = Mapping[str, Tensor]


def tied_shape(shape: Sequence[int], granularity: str) -> tuple[int, ...]:
    """Returns the shape of phi for a parameter of `shape`.

    Args:
        shape: The parameter's shape.
        granularity: One number per "weight", output "filter" or "layer".

    Raises:
        InputError: If the granularity is unknown.

    >>> tied_shape((8, 3, 5, 5), "filter"), tied_shape((8, 3, 5, 5), "layer")
    ((8, 1, 1, 1), (1, 1, 1, 1))
    """
    if granularity not in GRANULARITIES:
        known = ", ".join(GRANULARITIES)
        raise InputError(f"a prior's granularity is one of {known}, got {granularity!r}")
    kept = {"weight": len(shape), "filter": 1, "layer": 0}[granularity]
    return (*shape[:kept], *(1 for _ in shape[kept:]))


def select_parameters(model: nn.Module, select: Select) -> dict[str, nn.Parameter]:
    """Returns {name: parameter} of the trained parameters that carry phi.

    Args:
        model: The network.
        select: "weights" (see is_weight), "all", or a function of name and tensor.

    Raises:
        InputError: If `select` is unknown.
    """
    if not callable(select) and select not in ("weights", "all"):
        raise InputError(
            'which parameters carry phi: select is "weights", "all" or a function of name and '
            f"tensor, got {select!r}"
        )

    owners = dict(unwrap(model).named_modules())

    def is_selected(name: str, parameter: Tensor) -> bool:
        if callable(select):
            return bool(select(name, parameter))
        return select == "all" or is_weight(name, parameter, owners.get(name.rpartition(".")[0]))

    return {
        name: parameter
        for name, parameter in named_weights(model).items()
        if parameter.requires_grad and is_selected(name, parameter)
    }


LAYERS = (
    nn.Linear,
    nn.Bilinear,
    nn.modules.conv._ConvNd,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.Embedding,
    nn.EmbeddingBag,
)  # modules whose 2-D tensors are always weights, whatever their sizes


TOKENS = ("cls_token", "class_token", "class_embedding", "mask_token", "register_token")


POSITIONS = {
    "pos",
    "position",
    "positions",
    "positional",
    "wpe",
    "pe",
}  # parts of a parameter's name


TABLES = ("emb", "enc", "table")


MAGNITUDES = ("weight_g", "original0")  # weight norm's g, old and new


def is_weight(name: str, tensor: Tensor, owner: nn.Module | None = None) -> bool:
    """Returns whether a parameter is a connection weight, not one of a unit, token or position.

    Weights are tensors of two or more dimensions, except biases and bias tables, weight norm's
    magnitudes, class tokens, position embeddings, and channel scales (C, 1, 1).

    Args:
        name: The dotted name.
        tensor: The parameter.
        owner: The module that holds it, if known.

    >>> [is_weight(name, torch.ones(1, 5, 3)) for name in ("qkv.weight", "cls_token")]
    [True, False]
    """
    *path, leaf = name.lower().split(".")
    if tensor.dim() < 2 or "bias" in leaf or leaf in MAGNITUDES:
        return False
    if isinstance(owner, LAYERS) and not isinstance(owner, (nn.Embedding, nn.EmbeddingBag)):
        return True
    if tensor.dim() <= 3 and any(map(_is_place, (*path, leaf))):
        return False
    if isinstance(owner, LAYERS) or (owner is None and leaf.startswith("weight")):
        return True
    if sum(size > 1 for size in tensor.shape) < 2:
        return leaf.startswith(("weight", "original1")) and tensor.dim() == 2
    return not (tensor.dim() == 3 and len(tensor) == 1)  # (1, N, C): tokens shared by all samples


def _is_place(part: str) -> bool:
    """Returns whether a part of a name refers to a token or a position table."""
    if part in POSITIONS or any(word in part for word in TOKENS):
        return True
    return bool(POSITIONS & set(part.split("_"))) and any(word in part for word in TABLES)


def is_statistic(name: str) -> bool:
    """Returns whether a name in a state_dict is that of a running statistic."""
    leaf = name.rpartition(".")[2]
    return leaf in STATISTICS or leaf.startswith("running_")


def fingerprint(model_or_tensors: nn.Module | Tensors) -> str:
    """Returns a SHA-256 over the names, shapes and values of all parameters, to identify theta_0.

    The order of names does not matter, and BatchNorm's running statistics are ignored.
    """
    named = without_prefix(as_weights(model_or_tensors))
    digest = hashlib.sha256()
    for name in sorted(named):
        tensor = named[name].detach()
        if name.rpartition(".")[2] in STATISTICS:
            continue
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        digest.update(values.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
