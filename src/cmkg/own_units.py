"""Weights in units of their own channels, for networks whose channels differ greatly in size.

Where batch norm was folded into the convolutions, as in every converted network (TFLite, ONNX), one
learning rate is far too large for some channels and far too small for others. Here a weight is

    weight = start + unit * delta,    unit = root mean square of its output channel,

and delta, from 0 on, is what is trained. Weight decay, a Prior's phi, Fisher information and
learning rates are then in these units, too, and decay pulls to the start instead of to 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from .errors import InputError

FLOOR = 0.1  # of the whole weight's root mean square: no channel's unit is smaller


class OwnUnits(nn.Module):
    """The parametrization of one weight: delta to start + unit * delta.

    Args:
        start: the weight to begin from, any shape; dimension 0 is the output channel.
        floor: see FLOOR.
    """

    start: Tensor
    unit: Tensor

    def __init__(self, start: Tensor, floor: float = FLOOR) -> None:
        super().__init__()
        self.register_buffer("start", start.detach().clone())
        self.register_buffer("unit", unit_of(start, floor))

    def forward(self, delta: Tensor) -> Tensor:
        """The weight."""
        return self.start + self.unit * delta

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The delta of a weight."""
        return (weight - self.start) / self.unit


def unit_of(weight: Tensor, floor: float = FLOOR) -> Tensor:
    """Root mean square of each output channel of a weight, of a vector (a bias) the whole's.

    No unit is smaller than `floor` of the whole's; of a weight that is 0 everywhere it is 1.
    """
    whole = weight.detach().square().mean().sqrt()
    if not bool(whole):
        return torch.ones_like(weight)
    if weight.ndim < 2:
        return whole.expand_as(weight).clone()
    channel = weight.detach().square().mean(tuple(range(1, weight.ndim)), keepdim=True).sqrt()
    return channel.clamp_min(floor * float(whole))


def in_own_units(model: nn.Module, floor: float = FLOOR) -> nn.Module:
    """Changes a model in place: its trainable weights become deltas in their channels' units.

    Call it before the optimiser is made; `model.parameters()` are then the deltas. The function
    that the model computes is the same. `in_plain_units` turns it back.

    Example:
        >>> layer = in_own_units(nn.Linear(2, 2))
        >>> [delta.abs().sum().item() for delta in layer.parameters()]
        [0.0, 0.0]

    Args:
        model: any module; weights without gradient stay as they are.
        floor: of the whole weight's root mean square, below which no channel's unit is.

    Raises:
        InputError: a weight has a parametrization already, is shared by two modules, or is no
            floating-point number.
    """
    owners: dict[int, str] = {}
    found = [
        (module, prefix, name, weight)
        for prefix, module in model.named_modules()
        for name, weight in module.named_parameters(recurse=False)
        if weight.requires_grad
    ]
    for _, prefix, name, weight in found:
        full = f"{prefix}.{name}".lstrip(".")
        if "parametrizations." in full:
            raise InputError(f"in_own_units: {full} has a parametrization already; remove it first")
        if not weight.is_floating_point():
            raise InputError(f"in_own_units: {full} is {weight.dtype}, expected real numbers")
        other = owners.setdefault(id(weight), full)
        if other != full:
            raise InputError(f"in_own_units: {full} and {other} are one weight; untie them first")
    for module, _, name, weight in found:
        parametrize.register_parametrization(module, name, OwnUnits(weight, floor))
    return model


def parametrizations_of(module: nn.Module) -> dict[str, parametrize.ParametrizationList]:
    """{weight: what makes it}, of one module."""
    return dict(getattr(module, "parametrizations", {}))


def in_plain_units(model: nn.Module) -> nn.Module:
    """Undoes `in_own_units` in place: plain parameters again, with their present values."""
    for module in model.modules():
        if parametrizations_of(module):  # copies share torch's class: what is removed goes there
            kind = type(module)
            module.__class__ = type(kind.__name__, kind.__bases__, dict(kind.__dict__))
        for name in list(parametrizations_of(module)):
            held = parametrizations_of(module)[name]
            if len(held) == 1 and isinstance(held[0], OwnUnits):
                parametrize.remove_parametrizations(module, name)
    return model
