"""Proposes which layers of a student and a teacher to pair, and lists the candidates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..containers import count_samples, tensors_of
from ..errors import InputError
from ..modules import call_model, preserve_modes, preserve_weights, unwrap, without_fast_path
from .features import Output, tensor_of, warn_of_overwritten
from .layouts import Layout, example_map, guess_layout, lay_pair

Pairs = list[tuple[str, str]]
MIXING = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)
FEWEST_BLOCKS = 3  # of one shape, as in transformers and other networks without stages
LEAVES = tuple(kind.__name__ for kind in (*MIXING, nn.LayerNorm, nn.Dropout, nn.Identity))


@dataclass(frozen=True)
class Layer:
    """An intermediate output of a network.

    shape: without the batch. overwritten: a later layer modifies it in place, so that a tap would
    see the changed values. layout: the meaning of its dimensions, None if ambiguous. calls: how
    often it ran in the pass. is_stem: at most one mixing layer has run so far, as in a stem, a
    patch or word embedding, or its normalization. inside: (name, kind) of inner layers with the
    same output, such as the last block of a sequence.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    overwritten: bool
    layout: Layout | None = None
    calls: int = 1
    is_stem: bool = False
    inside: tuple[tuple[str, str], ...] = ()

    @property
    def places(self) -> tuple[int, ...]:
        """The sizes of its grid, sequence or tokens; empty for a layer of an MLP."""
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
    version: int  # counts in-place changes
    mixed: int  # mixing layers computed before it ends


def layers_of(module: nn.Module, x: Any) -> list[Layer]:
    """Returns the candidate layers of a network, in the order of computation.

    They come from one forward pass on x: outputs that are float tensors of the batch, each under
    its shortest name, without the network's own output and parametrizations of weights. The
    network's mode and buffers are left unchanged.
    """
    network = unwrap(module)
    seen: list[_Output] = []
    calls: Counter[str] = Counter()
    mixed = 0

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(child: nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal mixed
            calls[name] += 1
            mixed += isinstance(child, MIXING)
            try:
                tensor = tensor_of(output, None, name)
            except InputError:
                return
            if tensor.dim() >= 2 and tensor.is_floating_point():
                seen.append(_Output(name, type(child).__name__, tensor, tensor._version, mixed))

        return hook

    hooks = [
        child.register_forward_hook(keep(name))
        for name, child in network.named_modules()
        if name and "parametrizations." not in f"{name}."
    ]
    try:
        weights = list(network.parameters())  # an embedding of max_norm= rewrites its weight
        with (
            torch.no_grad(),
            preserve_modes(network),
            preserve_weights(network, weights),
            without_fast_path(),
        ):
            result = call_model(network.eval(), x)
    finally:
        for handle in hooks:
            handle.remove()
    output_storages = {tensor.untyped_storage().data_ptr() for tensor in tensors_of(result)}
    inside = [o for o in seen if o.tensor.untyped_storage().data_ptr() not in output_storages]
    return _distinct(inside, network, count_samples(x), calls)


def _distinct(
    seen: list[_Output], network: nn.Module, batch: int, calls: Mapping[str, int]
) -> list[Layer]:
    """Keeps one layer per tensor, under the shortest name: that of the outermost module."""
    layers: dict[int, Layer] = {}
    named: dict[int, list[tuple[str, str]]] = {}
    for output in seen:
        named.setdefault(id(output.tensor), []).append((output.name, output.kind))
    for output in seen:
        known = layers.get(id(output.tensor))
        if known is not None and len(output.name) >= len(known.name):
            continue
        shape = tuple(output.tensor.shape)
        layout = guess_layout(network, output.name, shape, batch)
        at = layout.index("B") if layout else 0
        if layout is None and shape[0] != batch:
            continue  # not per sample: a mask, a position
        layers[id(output.tensor)] = Layer(
            output.name,
            output.kind,
            shape[:at] + shape[at + 1 :],
            output.tensor._version > output.version,
            layout,
            calls[output.name],
            output.mixed <= 1,
            tuple(
                named_kind
                for named_kind in named[id(output.tensor)]
                if named_kind[0] != output.name
            ),
        )
    return list(layers.values())


def stage_ends(layers: list[Layer]) -> list[Layer]:
    """Returns the last layer of each map size, in order of execution, or a transformer's blocks.

    If no map has places, it returns all layers; if all maps have the same places (transformers),
    the repeated blocks. It leaves out layers that run several times in a pass or whose layout is
    ambiguous, and stems and embeddings with places if other layers exist.
    """
    clear = [layer for layer in layers if layer.layout is not None and layer.calls == 1]
    blocks = repeated_blocks([layer for layer in layers if layer.calls == 1])
    if len(blocks) >= FEWEST_BLOCKS and len({layer.shape for layer in blocks}) == 1:
        if any(layer.layout is None for layer in blocks):
            raise InputError(
                f"the blocks {blocks[0].name!r}, ... have maps of shape (B, "
                f"{', '.join(map(str, blocks[0].shape))}), whose layout is not clear: say it with "
                "Pair(student, teacher, layout=...), as ('BNC', 'BNC')"
            )
        if blocks[0].places:
            return blocks
    with_places = [layer for layer in clear if layer.places]
    with_places = [layer for layer in with_places if not layer.is_stem] or with_places
    if not with_places:
        return clear
    ends: dict[tuple[int, ...], Layer] = {}
    for layer in with_places:
        ends.pop(layer.places, None)  # reinserted, to keep the order of computation
        ends[layer.places] = layer
    if len(ends) > 1:
        return list(ends.values())
    return repeated_blocks(with_places) or with_places


def repeated_blocks(layers: list[Layer]) -> list[Layer]:
    """Returns the outermost sibling layers of one kind: a transformer's blocks.

    It takes the largest such group; the result is empty if no group has two layers.
    """
    groups: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        for name, kind in ((layer.name, layer.kind), *layer.inside):
            renamed = replace(layer, name=name, kind=kind)
            groups.setdefault((name.rpartition(".")[0], kind), []).append(renamed)
    blocks = [group for group in groups.values() if len(group) > 1 and group[0].kind not in LEAVES]
    members = [layer.name for group in blocks for layer in group]
    outermost = [
        group
        for group in blocks
        if not any(group[0].name.startswith(f"{member}.") for member in members)
    ]
    return max(outermost, key=len, default=[])


def pair_layers(
    student: nn.Module, teacher: nn.Module, x: Any, x_superior: Any, most: int = 4
) -> Pairs:
    """Proposes pairs of layer names [(student layer, teacher layer)], deepest last.

    It pairs the stage ends of both networks, by equal map size if both have such maps, otherwise
    counted from the end; transformers' blocks are paired at equal relative depth. It does not
    propose stems and embeddings, and warns about layers that are overwritten in place.

    Args:
        student, teacher: The networks.
        x, x_superior: One input of each.
        most: The largest number of pairs.

    Raises:
        InputError: If a network has no layer to pair.
    """
    mine = stage_ends(layers_of(student, x))
    theirs = stage_ends(layers_of(teacher, x_superior))
    for what, network, candidates in (("student", student, mine), ("teacher", teacher, theirs)):
        if not candidates:
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
    for layer in dict.fromkeys(member for pair in pairs for member in pair if member.overwritten):
        warn_of_overwritten(layer.name)
    return [(student_layer.name, teacher_layer.name) for student_layer, teacher_layer in pairs]


def _by_depth(mine: list[Layer], theirs: list[Layer], most: int) -> list[tuple[Layer, Layer]]:
    """Pairs layers of equal relative depth."""
    count = min(len(mine), len(theirs), most)
    stages = any(len({layer.places for layer in layers}) > 1 for layers in (mine, theirs))
    if stages and len(mine) <= most and len(theirs) <= most:
        return list(zip(mine[-count:], theirs[-count:], strict=True))

    def spread(layers: list[Layer]) -> list[Layer]:
        ends = [round((number + 1) * len(layers) / count) for number in range(count)]
        return [layers[end - 1] for end in ends]

    return list(zip(spread(mine), spread(theirs), strict=True))


def _can_be_compared(student: Layer, teacher: Layer) -> bool:
    """Returns whether the criterion can compare these two."""
    if student.layout is None or teacher.layout is None:
        return False
    try:
        student_map = example_map(student.shape, student.layout)
        teacher_map = example_map(teacher.shape, teacher.layout)
        lay_pair(student_map, teacher_map, (student.layout, teacher.layout), (0, 0))
    except InputError:
        return False
    return True


def pairing_table(student: nn.Module, teacher: nn.Module, x: Any, x_superior: Any) -> str:
    """Returns both networks' candidate layers and the proposed pairs, as text."""
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


@dataclass(frozen=True)
class Pair:
    """A layer of the student and one of the teacher.

    layout: the layouts of both maps (see layouts); None infers them if unambiguous.
    drop_tokens: number of special tokens to drop from both maps, or (student's, teacher's).
    output: index or key in a tuple or dict output, for both or (student's, teacher's).
    """

    student: str
    teacher: str
    layout: tuple[Layout, Layout] | None = None
    drop_tokens: int | tuple[int, int] = 0
    output: Output | tuple[Output, Output] = None
