"""Which layers of a student and a teacher to pair: candidates with shapes, a proposal, warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .batch import count_samples, tensors_of
from .errors import InputError
from .features import tensor_of, warn_of_overwritten
from .layouts import Layout, example_map, guess_layout, lay_pair
from .meta import preserve_weights
from .modules import call_model, preserve_modes, unwrap

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Layer:
    """An intermediate output of a network.

    shape is without the batch. overwritten: a later layer works in place on it, so that a tap would
    see the changed values. layout: what its dimensions mean, None where that is not clear. calls:
    how often it ran in the pass.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    overwritten: bool
    layout: Layout | None = None
    calls: int = 1

    @property
    def places(self) -> tuple[int, ...]:
        """The sizes of its grid, its sequence or its tokens; none of a layer of an MLP."""
        if self.layout is None:
            return self.shape[1:]
        letters = self.layout.replace("B", "")
        sizes = zip(letters, self.shape, strict=True)
        return tuple(size for letter, size in sizes if letter != "C")


@dataclass(frozen=True)
class _Output:
    name: str
    kind: str
    tensor: Tensor
    version: int  # counts the changes in place


def layers_of(module: nn.Module, x: Any) -> list[Layer]:
    """The candidate layers of a network, in the order of their computation.

    From one forward pass on x. Outputs that are float tensors of the batch, each under its shortest
    name; not what is the network's own output, nor what makes up a parametrised weight. The
    network's mode and buffers stay as they are.
    """
    network = unwrap(module)
    seen: list[_Output] = []
    calls: Counter[str] = Counter()

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(child: nn.Module, _inputs: Any, output: Any) -> None:
            calls[name] += 1
            try:
                tensor = tensor_of(output, None, name)
            except InputError:
                return
            if tensor.dim() >= 2 and tensor.is_floating_point():
                seen.append(_Output(name, type(child).__name__, tensor, tensor._version))

        return hook

    hooks = [
        child.register_forward_hook(keep(name))
        for name, child in network.named_modules()
        if name and "parametrizations." not in f"{name}."
    ]
    try:
        with torch.no_grad(), preserve_modes(network), preserve_weights(network, []):
            result = call_model(network.eval(), x)
    finally:
        for handle in hooks:
            handle.remove()
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(result)}
    inside = [o for o in seen if o.tensor.untyped_storage().data_ptr() not in own]
    return _distinct(inside, network, count_samples(x), calls)


def _distinct(
    seen: list[_Output], network: nn.Module, batch: int, calls: Mapping[str, int]
) -> list[Layer]:
    """One layer for each tensor: the shortest name is that of the outermost module that gave it."""
    found: dict[int, Layer] = {}
    for output in seen:
        held = found.get(id(output.tensor))
        if held is not None and len(output.name) >= len(held.name):
            continue
        shape = tuple(output.tensor.shape)
        layout = guess_layout(network, output.name, shape, batch)
        at = layout.index("B") if layout else 0
        if layout is None and shape[0] != batch:
            continue  # of no sample of its own: a mask, a position
        found[id(output.tensor)] = Layer(
            output.name,
            output.kind,
            shape[:at] + shape[at + 1 :],
            output.tensor._version > output.version,
            layout,
            calls[output.name],
        )
    return list(found.values())


def stage_ends(layers: list[Layer]) -> list[Layer]:
    """The last layer of each size of its map, in order of execution.

    All where no map has places. Layers that run several times in a pass, or whose layout is not
    clear, are left out.
    """
    clear = [layer for layer in layers if layer.layout is not None and layer.calls == 1]
    with_places = [layer for layer in clear if layer.places]
    if not with_places:
        return clear
    ends: dict[tuple[int, ...], Layer] = {}
    for layer in with_places:
        ends.pop(layer.places, None)  # a later one of this size stands where it is computed
        ends[layer.places] = layer
    if len(ends) > 1:
        return list(ends.values())
    return with_places  # transformers: every block has the same places


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
    by_size = {layer.places: layer for layer in theirs}
    pairs = [
        (layer, by_size[layer.places])
        for layer in mine
        if layer.places and by_size.get(layer.places) is not None
    ]
    one_size = len({layer.places for layer in mine}) == 1
    if len(pairs) < 2 or one_size:
        pairs = _by_depth(mine, theirs, most)
    pairs = [pair for pair in pairs if _can_be_compared(*pair)][-most:]
    if not pairs:
        raise InputError(
            "no layer of the student can be compared with one of the teacher's; "
            "pairing_table(...) lists both, say which with Pair(student, teacher, layout=...)"
        )
    for layer in dict.fromkeys(one for pair in pairs for one in pair if one.overwritten):
        warn_of_overwritten(layer.name)
    return [(student_layer.name, teacher_layer.name) for student_layer, teacher_layer in pairs]


def _by_depth(mine: list[Layer], theirs: list[Layer], most: int) -> list[tuple[Layer, Layer]]:
    """Layers of equal relative depth, counted from both ends."""
    count = min(len(mine), len(theirs), most)
    if len(mine) <= most and len(theirs) <= most:
        return list(zip(mine[-count:], theirs[-count:], strict=True))

    def spread(layers: list[Layer]) -> list[Layer]:
        return [layers[(number + 1) * len(layers) // count - 1] for number in range(count)]

    return list(zip(spread(mine), spread(theirs), strict=True))


def _can_be_compared(student: Layer, teacher: Layer) -> bool:
    """Whether the criterion takes these two."""
    if student.layout is None or teacher.layout is None:
        return False
    try:
        own = example_map(student.shape, student.layout)
        other = example_map(teacher.shape, teacher.layout)
        lay_pair(own, other, (student.layout, teacher.layout), (0, 0))
    except InputError:
        return False
    return True


def pairing_table(student: nn.Module, teacher: nn.Module, x: Any, x_superior: Any) -> str:
    """Both networks' candidate layers and the proposed pairs, as text."""
    lines = []
    for title, network, inputs in (("student", student, x), ("teacher", teacher, x_superior)):
        lines.append(f"{title}: {type(network).__name__}")
        for layer in layers_of(network, inputs):
            shape = " x ".join(map(str, layer.shape))
            note = "  overwritten in place" if layer.overwritten else ""
            note += f"  runs {layer.calls} times" if layer.calls > 1 else ""
            layout = layer.layout or "?"
            lines.append(f"  {layer.name:40} {layer.kind:20} {layout:6} {shape:16}{note}")
    lines.append("proposed pairs:")
    lines += [f"  {a:40} {b}" for a, b in pair_layers(student, teacher, x, x_superior)]
    return "\n".join(lines)
