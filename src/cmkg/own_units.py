"""Weights in units of their own channels, for networks whose channels differ greatly in size.

If batch norm was folded into the convolutions, as in converted networks (TFLite, ONNX), one
learning rate is far too large for some channels and far too small for others. Here a weight is

    weight = start + unit * delta,    unit = root mean square of its output channel,

and delta, which starts at 0, is trained. Weight decay, a Prior's phi, Fisher information and
learning rates are then in these units, too, and decay pulls toward the start instead of 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .errors import InputError

FLOOR = 0.1  # smallest unit of a channel, relative to the whole weight's root mean square


class OwnUnits(nn.Module):
    """The parametrization of one weight, delta -> start + unit * delta.

    Args:
        start: The initial weight, of any shape; dimension 0 is the output channel.
        floor: See FLOOR.
    """

    start: Tensor
    unit: Tensor

    def __init__(self, start: Tensor, floor: float = FLOOR) -> None:
        super().__init__()
        self.register_buffer("start", start.detach().clone())
        self.register_buffer("unit", unit_of(start, floor))

    def forward(self, delta: Tensor) -> Tensor:
        """Returns the weight."""
        return self.start + self.unit * delta

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Returns the delta of a weight."""
        return (weight - self.start) / self.unit


def unit_of(weight: Tensor, floor: float = FLOOR) -> Tensor:
    """Returns the root mean square of each output channel of a weight; of a bias, that of all.

    No unit is smaller than `floor` times the whole's; a weight of zeros has unit 1.
    """
    whole = weight.detach().square().mean().sqrt()
    if not bool(whole):
        return torch.ones_like(weight)
    if weight.ndim < 2:
        return whole.expand_as(weight).clone()
    channel = weight.detach().square().mean(tuple(range(1, weight.ndim)), keepdim=True).sqrt()
    return channel.clamp_min(floor * float(whole))


def in_own_units(model: nn.Module, floor: float = FLOOR) -> nn.Module:
    """Converts a model's trainable weights in place to deltas in their channels' units.

    Call it before creating the optimizer; `model.parameters()` are then the deltas. The model
    computes the same function. `in_plain_units` undoes it.

    Example:
        >>> layer = in_own_units(nn.Linear(2, 2))
        >>> [delta.abs().sum().item() for delta in layer.parameters()]
        [0.0, 0.0]

    Args:
        model: Any module; weights without gradient stay unchanged.
        floor: The smallest unit, relative to the whole weight's root mean square.

    Raises:
        InputError: If a weight already has a parametrization, is shared by two modules, or is not
            floating-point.
    """
    owners: dict[int, str] = {}
    weights = [
        (module, prefix, name, weight)
        for prefix, module in model.named_modules()
        for name, weight in module.named_parameters(recurse=False)
        if weight.requires_grad
    ]
    for _, prefix, name, weight in weights:
        full = f"{prefix}.{name}".lstrip(".")
        if "parametrizations." in full:
            raise InputError(f"in_own_units: {full} has a parametrization already; remove it first")
        if not weight.is_floating_point():
            raise InputError(f"in_own_units: {full} is {weight.dtype}, expected real numbers")
        other = owners.setdefault(id(weight), full)
        if other != full:
            raise InputError(f"in_own_units: {full} and {other} are one weight; untie them first")
    for module, _, name, weight in weights:
        parametrize.register_parametrization(module, name, OwnUnits(weight, floor))
    return model


def parametrizations_of(module: nn.Module) -> dict[str, parametrize.ParametrizationList]:
    """Returns {weight: its parametrizations} of one module."""
    return dict(getattr(module, "parametrizations", {}))


def in_plain_units(model: nn.Module) -> nn.Module:
    """Undoes `in_own_units` in place, giving plain parameters with their current values."""
    for module in model.modules():
        if parametrizations_of(
            module
        ):  # copies share torch's generated class, which removal changes
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(kind.__dict__))
        for name in list(parametrizations_of(module)):
            parametrizations = parametrizations_of(module)[name]
            if len(parametrizations) == 1 and isinstance(parametrizations[0], OwnUnits):
                parametrize.remove_parametrizations(module, name)
    return model
