"""Which layers of a student and a teacher to pair: candidates with their shapes, a proposal,
warnings."""

import warnings
from dataclasses import dataclass

import torch

from .errors import InputError
from .steps import called, modes_kept


@dataclass(frozen=True)
class Layer:
    """An intermediate output of a network."""

    name: str
    kind: str
    shape: tuple[int, ...]  # without the batch
    overwritten: bool  # a later layer works in place on it: a tap would see the changed values


def layers_of(module, x):
    """The candidate Layers of a network, in the order of their computation, from one forward pass
    on x.

    Outputs that are tensors (B, C, ...), each under its shortest name; not the network's own
    output. The network's mode and buffers stay as they are.
    """
    seen, hooks = [], []
    for name, child in module.named_modules():
        if name:
            hooks.append(
                child.register_forward_hook(lambda m, _, out, n=name: _note(seen, n, m, out))
            )
    buffers = [b.clone() for b in module.buffers()]
    try:
        with torch.no_grad(), modes_kept(module):
            output = called(module.eval(), x)
    finally:
        for hook in hooks:
            hook.remove()
        for b, kept in zip(module.buffers(), buffers, strict=False):
            b.copy_(kept)
    return _distinct([s for s in seen if s[2] is not output])


def _note(seen, name, module, output):
    if isinstance(output, torch.Tensor) and output.dim() >= 2:
        seen.append((name, type(module).__name__, output, output._version))


def _distinct(seen):
    """One Layer for each tensor: the shortest name, which is the outermost module that gave it."""
    found = {}
    for name, kind, tensor, version in seen:
        held = found.get(id(tensor))
        if held is None or len(name) < len(held.name):
            found[id(tensor)] = Layer(
                name, kind, tuple(tensor.shape[1:]), tensor._version > version
            )
    return list(found.values())


def stage_ends(layers):
    """The last layer of each size of its map, in order; where no map has places, all."""
    spatial = [layer for layer in layers if len(layer.shape) > 1]
    if not spatial:
        return layers
    return list({layer.shape[1:]: layer for layer in spatial}.values())


def pair_layers(student, teacher, x, x_superior, most=4):
    """Proposes [(student layer, teacher layer)] of names, at most `most`, the deepest last; warns
    of what is wrong with them.

    The last layers of equal relative depth are paired: stage ends of both networks, counted from
    their ends; maps of equal size first, where both have them. Raises InputError where a network
    has no layer to pair.
    """
    mine, theirs = stage_ends(layers_of(student, x)), stage_ends(layers_of(teacher, x_superior))
    for what, network, found in (("student", student, mine), ("teacher", teacher, theirs)):
        if not found:
            raise InputError(
                f"the {what}, {type(network).__name__}, has no intermediate layer to pair: "
                "expected modules inside it whose outputs are (B, C, ...)"
            )
    by_size = {t.shape[1:]: t for t in theirs}
    equal = [(s, by_size[s.shape[1:]]) for s in mine if len(s.shape) > 1 and s.shape[1:] in by_size]
    pairs = equal if len(equal) > 1 else list(zip(mine[::-1], theirs[::-1], strict=False))[::-1]
    for layer in {layer for pair in pairs[-most:] for layer in pair if layer.overwritten}:
        warnings.warn(
            f"layer {layer.name!r} ({layer.kind}) is overwritten by a later layer that works "
            "in place: its tap sees the changed values; "
            "pair the layer after it, or give that activation inplace=False",
            stacklevel=2,
        )
    return [(s.name, t.name) for s, t in pairs[-most:]]


def table(student, teacher, x, x_superior):
    """Both networks' candidate layers and the proposed pairs, as text."""
    lines = []
    for title, network, inputs in (("student", student, x), ("teacher", teacher, x_superior)):
        lines.append(f"{title}: {type(network).__name__}")
        for layer in layers_of(network, inputs):
            shape, note = " x ".join(map(str, layer.shape)), "  overwritten in place"
            lines.append(
                f"  {layer.name:40} {layer.kind:20} {shape:16}{note if layer.overwritten else ''}"
            )
    lines.append("proposed pairs:")
    lines += [f"  {a:40} {b}" for a, b in pair_layers(student, teacher, x, x_superior)]
    return "\n".join(lines)
