"""Which layers of a student and a teacher to pair: candidates with shapes, a proposal, warnings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError
from .meta import preserve_weights
from .modules import call_model, preserve_modes

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Layer:
    """An intermediate output of a network.

    shape is without the batch. overwritten: a later layer works in place on it, so that a tap would
    see the changed values.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    overwritten: bool


@dataclass(frozen=True)
class _Output:
    name: str
    kind: str
    tensor: Tensor
    version: int  # counts the changes in place


def layers_of(module: nn.Module, x: Any) -> list[Layer]:
    """The candidate layers of a network, in the order of their computation.

    From one forward pass on x. Outputs that are tensors (B, C, ...), each under its shortest name;
    not the network's own output. The network's mode and buffers stay as they are.
    """
    seen: list[_Output] = []

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(child: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() >= 2:
                seen.append(_Output(name, type(child).__name__, output, output._version))

        return hook

    hooks = [
        child.register_forward_hook(keep(name)) for name, child in module.named_modules() if name
    ]
    try:
        with torch.no_grad(), preserve_modes(module), preserve_weights(module, []):
            result = call_model(module.eval(), x)
    finally:
        for handle in hooks:
            handle.remove()
    return _distinct([output for output in seen if output.tensor is not result])


def _distinct(seen: list[_Output]) -> list[Layer]:
    """One layer for each tensor: the shortest name is that of the outermost module that gave it."""
    found: dict[int, Layer] = {}
    for output in seen:
        held = found.get(id(output.tensor))
        if held is None or len(output.name) < len(held.name):
            found[id(output.tensor)] = Layer(
                output.name,
                output.kind,
                tuple(output.tensor.shape[1:]),
                output.tensor._version > output.version,
            )
    return list(found.values())


def stage_ends(layers: list[Layer]) -> list[Layer]:
    """The last layer of each size of its map, in order; all where no map has places."""
    with_places = [layer for layer in layers if len(layer.shape) > 1]
    if not with_places:
        return layers
    return list({layer.shape[1:]: layer for layer in with_places}.values())


def pair_layers(
    student: nn.Module, teacher: nn.Module, x: Any, x_superior: Any, most: int = 4
) -> Pairs:
    """Proposes [(student layer, teacher layer)] of names, the deepest last.

    The last layers of equal relative depth are paired: stage ends of both networks, counted from
    their ends; maps of equal size first, where both have them. Warns of layers that are overwritten
    in place.

    Args:
        student, teacher: the networks.
        x, x_superior: one input of each.
        most: how many pairs.

    Raises:
        InputError: a network has no layer to pair.
    """
    mine = stage_ends(layers_of(student, x))
    theirs = stage_ends(layers_of(teacher, x_superior))
    for what, network, found in (("student", student, mine), ("teacher", teacher, theirs)):
        if not found:
            raise InputError(
                f"the {what}, {type(network).__name__}, has no intermediate layer to pair: "
                "expected modules inside it whose outputs are (B, C, ...)"
            )
    by_size = {layer.shape[1:]: layer for layer in theirs}
    pairs = [
        (layer, by_size[layer.shape[1:]])
        for layer in mine
        if len(layer.shape) > 1 and layer.shape[1:] in by_size
    ]
    if len(pairs) < 2:
        pairs = list(zip(mine[::-1], theirs[::-1], strict=False))[::-1]
    pairs = pairs[-most:]
    for layer in {layer for pair in pairs for layer in pair if layer.overwritten}:
        warnings.warn(
            f"layer {layer.name!r} ({layer.kind}) is overwritten by a later layer that works in "
            "place: its tap sees the changed values; pair the layer after it, or give that "
            "activation inplace=False",
            stacklevel=2,
        )
    return [(student_layer.name, teacher_layer.name) for student_layer, teacher_layer in pairs]


def table(student: nn.Module, teacher: nn.Module, x: Any, x_superior: Any) -> str:
    """Both networks' candidate layers and the proposed pairs, as text."""
    lines = []
    for title, network, inputs in (("student", student, x), ("teacher", teacher, x_superior)):
        lines.append(f"{title}: {type(network).__name__}")
        for layer in layers_of(network, inputs):
            shape = " x ".join(map(str, layer.shape))
            note = "  overwritten in place" if layer.overwritten else ""
            lines.append(f"  {layer.name:40} {layer.kind:20} {shape:16}{note}")
    lines.append("proposed pairs:")
    lines += [f"  {a:40} {b}" for a, b in pair_layers(student, teacher, x, x_superior)]
    return "\n".join(lines)
