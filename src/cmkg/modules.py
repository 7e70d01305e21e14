"""Small helpers for anybody's modules: wrappers, calls, modes, trained parameters."""

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
    """Puts the training or eval mode of every submodule back after the block.

    Of every one: some may be frozen in eval mode.
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def put_back_(buffer: Tensor, kept: Tensor) -> None:
    """Gives a buffer its value again, and its shape: a quantiser's observers change theirs."""
    if buffer.shape == kept.shape:
        buffer.data.copy_(kept)
    else:
        buffer.data = kept


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Inside, torch's transformer layers give plain tensors also in eval mode.

    Their fast path turns a padded batch into nested tensors, which nothing can be compared with,
    and skips the hooks of the layers inside.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own network inside any wrappers, whose parameters have their own names.

    torch.compile, DistributedDataParallel, DataParallel, AveragedModel (EMA), Fabric's and peft's.

    Raises:
        InputError: no network; or FullyShardedDataParallel, which flattens the weights.
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
    """{name: parameter} as it was before peft put adapters around some layers."""
    network = unwrap(model)
    named = dict(network.named_parameters(remove_duplicate=unique))
    if not any(type(part).__module__.startswith("peft.") for part in network.modules()):
        return named
    found = {}
    for name, weight in named.items():
        if ".original_module." in name:
            continue  # beside the copy that is trained
        plain = name.replace(".modules_to_save.default.", ".").replace(".base_layer.", ".")
        found[plain] = weight
    return found


def named_weights(model: nn.Module, unique: bool = True) -> dict[str, nn.Parameter]:
    """{name: parameter} of the user's own network, without wrappers' prefixes.

    Args:
        model: a network, wrapped or not.
        unique: a weight that is used in several places has its first name alone.

    Raises:
        InputError: a parameter is sharded (FSDP2's DTensor), has no shape yet (lazy layers) or no
            numbers (the meta device).
    """
    found = _own_names(model, unique)
    expect_numbers(unwrap(model))
    for name, weight in found.items():
        if isinstance(weight, nn.parameter.UninitializedParameter):
            raise InputError(
                f"{name!r} has no shape yet: run the network once (its layers are lazy)"
            )
        if type(weight.data).__name__ == "DTensor":
            raise InputError(
                f"{name!r} is a DTensor, sharded over processes by FSDP2: phi is not; use "
                "DistributedDataParallel"
            )
    return found


def expect_numbers(network: nn.Module) -> None:
    """Refuses a network on the meta device.

    Raises:
        InputError: one of its parameters is there.
    """
    for name, weight in network.named_parameters():
        if weight.is_meta:
            raise InputError(
                f"{name!r} of {type(network).__name__} is on the meta device and has no numbers: "
                "give the network its weights first, as with to_empty() and load_state_dict()"
            )


def as_weights(model_or_tensors: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{name: tensor} of a network's parameters, or of a mapping such as a state_dict.

    Raises:
        InputError: neither.
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
    """A wrapped network's state without the prefix that its wrapper gives to all names."""
    named = {name: tensor for name, tensor in tensors.items() if name != "n_averaged"}  # an EMA's
    for prefix in ("module.", "_orig_mod."):
        if named and all(name.startswith(prefix) for name in named):
            return without_prefix({n.removeprefix(prefix): t for n, t in named.items()})
    return named


def call_model(model: Callable[..., Any], x: Any) -> Any:
    """The model's output for one input, a tuple of several, or a mapping of named ones.

    A list is one input (detectors take a list of pictures), and so is a named tuple such as
    PackedSequence.
    """
    if isinstance(x, Mapping):
        return model(**x)
    if isinstance(x, tuple) and not hasattr(x, "_fields"):
        return model(*x)
    return model(x)


def trained_parameters(*models: object) -> dict[str, nn.Parameter]:
    """{name: parameter} that training moves, of networks and of losses that have any.

    Names of the first model are its own; those of a later one begin with its place, "1/".
    """
    found: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for place, model in enumerate(models):
        if not isinstance(model, nn.Module):
            continue
        for name, parameter in _own_names(model, unique=True).items():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                found[f"{place}/{name}" if place else name] = parameter
    return found


def expect_optimizer(optimizer: object) -> torch.optim.Optimizer:
    """The torch optimiser, or one in a sentence.

    Raises:
        InputError: a class, a function, a name.
    """
    if isinstance(optimizer, torch.optim.Optimizer):
        return optimizer
    hint = ""
    if isinstance(optimizer, type) or callable(optimizer):
        hint = ": make one, as in torch.optim.Adam(student.parameters(), lr=1e-3)"
    name = getattr(optimizer, "__name__", None) or _describe(optimizer)
    raise InputError(f"expected an optimiser (torch.optim.Optimizer), got {name}{hint}")


def groups_by_parameter(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]]:
    """{id of a parameter: its group}, of all that an optimiser holds."""
    return {
        id(parameter): group for group in optimizer.param_groups for parameter in group["params"]
    }


@contextmanager
def preserve_weights(model: nn.Module, weights: Iterable[Tensor]) -> Iterator[None]:
    """Lets `weights` of `model` be overwritten inside; puts them and all buffers back.

    Bit for bit, also buffers that a pass assigns anew. Forward passes inside may move running
    statistics (BatchNorm): these are buffers, and are put back, too. A graph that was made before
    can still go backward after.
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
            weight.data.copy_(kept)  # .data: autograd need not know, the values are the old ones
        for held, name, buffer, copied in buffers:
            if buffer is not None and copied is not None:
                put_back_(buffer, copied)
            held[name] = buffer
