"""Helpers for any torch module: wrappers, calls, modes, trained parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from .errors import InputError

WITH_MODULE = (nn.parallel.DistributedDataParallel, nn.DataParallel, AveragedModel)


@contextmanager
def preserve_modes(*models: nn.Module) -> Iterator[None]:
    """Restores the training or eval mode of every submodule after the block.

    Each submodule is restored separately, because some may be frozen in eval mode.
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def put_back_(buffer: Tensor, kept: Tensor) -> None:
    """Restores a buffer's value and its shape, which a quantizer's observers may change."""
    if buffer.shape == kept.shape:
        buffer.data.copy_(kept)
    else:
        buffer.data = kept


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Disables the fast path of torch's transformer layers inside the block.

    In eval mode, the fast path turns a padded batch into nested tensors, which cannot be compared,
    and skips the hooks of inner layers.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def unwrap(model: nn.Module) -> nn.Module:
    """Returns the user's network without its wrappers, so that parameters have their own names.

    It unwraps torch.compile, DistributedDataParallel, DataParallel, AveragedModel (EMA), Fabric and
    peft.

    Raises:
        InputError: If it is not a network, or is a FullyShardedDataParallel, which flattens the
            weights.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"expected a network (torch.nn.Module), got {_describe(model)}")
    kind = type(model).__name__
    if kind == "FullyShardedDataParallel":
        raise InputError(
            "FullyShardedDataParallel flattens the weights, so that phi has none to belong to: "
            "use DistributedDataParallel"
        )
    inner: Any = model
    if isinstance(model, WITH_MODULE):
        inner = model.module
    elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
        inner = model._orig_mod
    elif kind == "_FabricModule":
        inner = model._original_module
    elif callable(getattr(model, "get_base_model", None)) and hasattr(model, "peft_config"):
        inner = model.get_base_model()  # type: ignore[operator]
    return model if inner is model else unwrap(inner)


def _describe(value: object) -> str:
    return repr(value) if isinstance(value, (str, int, float)) else type(value).__name__


def _own_names(model: nn.Module, unique: bool) -> dict[str, nn.Parameter]:
    """Returns {name: parameter} with the names from before peft wrapped layers in adapters."""
    network = unwrap(model)
    named = dict(network.named_parameters(remove_duplicate=unique))
    if not any(type(part).__module__.startswith("peft.") for part in network.modules()):
        return named
    parameters = {}
    for name, weight in named.items():
        if ".original_module." in name:
            continue  # the frozen original of a trained copy
        plain = name.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")
        parameters[plain] = weight
    return parameters


def named_weights(model: nn.Module, unique: bool = True) -> dict[str, nn.Parameter]:
    """Returns {name: parameter} of the user's network, without wrappers' prefixes.

    Args:
        model: A network, wrapped or not.
        unique: If True, a shared weight appears only under its first name.

    Raises:
        InputError: If a parameter is sharded (FSDP2's DTensor), has no shape yet (lazy layers) or
            no values (the meta device).
    """
    weights = _own_names(model, unique)
    expect_numbers(unwrap(model))
    for name, weight in weights.items():
        if isinstance(weight, nn.parameter.UninitializedParameter):
            raise InputError(
                f"{name!r} has no shape yet: run the network once (its layers are lazy)"
            )
        if type(weight.data).__name__ == "DTensor":
            raise InputError(
                f"{name!r} is a DTensor, sharded over processes by FSDP2: phi is not; use "
                "DistributedDataParallel"
            )
    return weights


def expect_numbers(network: nn.Module) -> None:
    """Refuses a network on the meta device.

    Raises:
        InputError: If one of its parameters is on the meta device.
    """
    for name, weight in network.named_parameters():
        if weight.is_meta:
            raise InputError(
                f"{name!r} of {type(network).__name__} is on the meta device and has no numbers: "
                "give the network its weights first, as with to_empty() and load_state_dict()"
            )


def as_weights(model_or_tensors: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns {name: tensor} of a network's parameters, or of a mapping such as a state_dict.

    Raises:
        InputError: If it is neither.
    """
    if isinstance(model_or_tensors, nn.Module):
        return dict[str, Tensor](named_weights(model_or_tensors, unique=False))
    if not isinstance(model_or_tensors, Mapping):
        raise InputError(
            "expected a network or {name: tensor} of its weights, got "
            f"{_describe(model_or_tensors)}"
        )
    return dict(model_or_tensors)


def without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes the prefix that a wrapper adds to all names of a network's state."""
    named = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}  # an EMA's
    for prefix in ("module.", "_orig_mod."):
        if named and all(name.startswith(prefix) for name in named):
            return without_prefix({n.removeprefix(prefix): t for n, t in named.items()})
    return named


def call_model(model: Callable[..., Any], x: Any) -> Any:
    """Calls the model on one input, a tuple of inputs, or a mapping of named inputs.

    A list counts as one input (detectors take a list of images), and so does a named tuple such as
    PackedSequence.
    """
    if isinstance(x, Mapping):
        return model(**x)
    if isinstance(x, tuple) and not hasattr(x, "_fields"):
        return model(*x)
    return model(x)


def trained_parameters(*models: object) -> dict[str, nn.Parameter]:
    """Returns {name: trained parameter} of networks and of losses that have parameters.

    The first model's names are unchanged; a later model's start with its position, such as "1/".
    """
    trained: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for place, model in enumerate(models):
        if not isinstance(model, nn.Module):
            continue
        for name, parameter in _own_names(model, unique=True).items():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                trained[f"{place}/{name}" if place else name] = parameter
    return trained


def expect_optimizer(optimizer: object) -> torch.optim.Optimizer:
    """Returns the optimizer if it is a torch optimizer.

    Raises:
        InputError: If it is something else, such as a class, a function or a name.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        return optimizer
    hint = ""
    if isinstance(optimizer, type) or callable(optimizer):
        hint = ": make one, as in torch.optim.Adam(student.parameters(), lr=1e-3)"
    name = getattr(optimizer, "__name__", None) or _describe(optimizer)
    raise InputError(f"expected an optimiser (torch.optim.Optimizer), got {name}{hint}")


def groups_by_parameter(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """Returns {id of a parameter: its group} for all parameters of an optimizer."""
    return {
        id(parameter): group for group in optimizer.param_groups for parameter in group["params"]
    }


@contextmanager
def preserve_weights(model: nn.Module, weights: Iterable[Tensor]) -> Iterator[None]:
    """Allows `weights` of `model` to be overwritten in the block; restores them and all buffers.

    Values are restored bit for bit, including buffers that a pass reassigns and BatchNorm's running
    statistics. A graph built before the block can still run backward after it.
    """
    saved = [(weight, weight.detach().clone()) for weight in weights]
    buffers = [
        (module._buffers, name, buffer, None if buffer is None else buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    try:
        yield
    finally:
        for weight, kept in saved:
            weight.data.copy_(kept)  # .data hides the restored values from autograd
        for holder, name, buffer, copied in buffers:
            if buffer is not None and copied is not None:
                put_back_(buffer, copied)
            holder[name] = buffer
