"""Captures named intermediate activations of any nn.Module."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..modules import unwrap

Output = int | str | None


class FeatureTap:
    """Captures the outputs of named submodules at each forward pass of a module.

        tap = FeatureTap(net, ["layer3", "layer4"])
        prediction = net(x)
        maps = tap.maps  # [output of layer3, output of layer4], in the order of the names

    An already compiled network is compiled again with the tap's hooks.

    The maps are the tensors of the pass itself, with their graph. Each pass of the module starts
    empty; calls outside of one (a copy of the module, gradient checkpointing's second pass) are not
    captured. `close` removes the hooks.

    Args:
        module: The network, wrapped or not.
        names: The names of its submodules.
        outputs: For each, the index or key of a tensor in a tuple or dict output; None if the
            output is a tensor, or holds only one.

    Raises:
        InputError: If the module has no such submodule; the message lists those that it has.
    """

    def __init__(
        self, module: nn.Module, names: Sequence[str], outputs: Sequence[Output] | None = None
    ) -> None:
        if isinstance(module, nn.DataParallel):
            raise InputError(
                "DataParallel's copies on other devices cannot be tapped: use "
                "DistributedDataParallel"
            )
        if isinstance(names, str):
            raise InputError(f"a tap's names: expected a list such as [{names!r}], got {names!r}")
        network = unwrap(module)
        known = dict(network.named_modules())
        for name in names:
            if name not in known or not name:
                there = ", ".join(filter(None, known))
                raise InputError(
                    f"{type(network).__name__} has no submodule {name!r}; it has: {there}"
                )
        self.names = list(names)
        self.outputs = list(outputs) if outputs is not None else [None] * len(self.names)
        self._state = _Pass()
        _forget_compiled()
        self._hooks = [
            network.register_forward_pre_hook(_Begin(self._state)),
            network.register_forward_hook(_End(self._state)),
        ]
        for name in dict.fromkeys(names):
            self._hooks.append(known[name].register_forward_hook(_Keep(self._state, name)))

    @property
    def calls(self) -> dict[str, list[Any]]:
        """{name: outputs of its calls in the last pass, in order}."""
        return {name: list(self._state.kept.get(name, [])) for name in self.names}

    @property
    def maps(self) -> list[Tensor]:
        """The tapped outputs of the last forward pass, in the order of the names.

        Raises:
            InputError: If a layer did not run, ran several times, or returned no tensor.
        """
        return [
            self._map_of(name, output)
            for name, output in zip(self.names, self.outputs, strict=True)
        ]

    def _map_of(self, name: str, output: Output) -> Tensor:
        calls = self._state.kept.get(name, [])
        if not calls:
            raise InputError(
                f"no output of {name!r} in the last forward pass: run the whole network first, "
                "and tap layers that every pass runs"
            )
        if len(calls) > 1:
            raise InputError(
                f"{name!r} ran {len(calls)} times in one forward pass: tap.calls[{name!r}] has "
                "every output; for distilling, tap a layer that runs once, or call the network "
                "once an input"
            )
        return tensor_of(calls[0], output, name)

    def warn_of_overwritten(self) -> None:
        """Warns about maps that a later layer has modified in place."""
        for name in self.names:
            for output, version in zip(
                self._state.kept.get(name, []), self._state.versions.get(name, []), strict=True
            ):
                if isinstance(output, Tensor) and output._version != version:
                    warn_of_overwritten(name)

    def clear(self) -> None:
        """Drops the last maps, which frees their graph."""
        self._state.kept, self._state.versions = {}, {}

    def close(self) -> None:
        """Removes the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.clear()


def _forget_compiled() -> None:
    """Makes torch.compile recompile: code compiled earlier does not run newer hooks."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and dynamo.utils.counters["frames"]:  # something has been compiled
        torch.compiler.reset()


def tensor_of(value: Any, output: Output, name: str) -> Tensor:
    """Returns the tensor of a layer's output.

    Raises:
        InputError: If it holds none or several, and `output` does not select one.
    """
    if output is not None:
        try:
            value = value[output]
        except (KeyError, IndexError, TypeError):
            raise InputError(
                f"{name!r} has no output {output!r}: it gives {_kind(value)}"
            ) from None
    if isinstance(value, Tensor):
        return value
    parts = value.values() if isinstance(value, Mapping) else value
    if isinstance(parts, (tuple, list)) or isinstance(value, Mapping):
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if len(tensors) == 1:
            return tensors[0]
    raise InputError(
        f"{name!r} gives {_kind(value)}, not one tensor: say which part with output=, its number "
        "or key"
    )


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with {', '.join(map(str, value))}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {', '.join(type(part).__name__ for part in value)}"
    return type(value).__name__


class _Pass:
    """The captured outputs of the last pass; hooks of copied modules capture nothing."""

    def __init__(self, is_copy: bool = False) -> None:
        self.kept: dict[str, list[Any]] = {}
        self.versions: dict[str, list[int]] = {}  # in-place version counters of the kept tensors
        self.running = False
        self.is_copy = is_copy

    def __reduce__(self) -> Any:
        return _Pass, (True,)  # for copies and pickles alike


class _Begin:
    def __init__(self, state: _Pass) -> None:
        self.state = state

    def __call__(self, _module: nn.Module, _inputs: Any) -> None:
        self.state.kept, self.state.versions = {}, {}
        self.state.running = not self.state.is_copy


class _End:
    def __init__(self, state: _Pass) -> None:
        self.state = state

    def __call__(self, _module: nn.Module, _inputs: Any, _output: Any) -> None:
        self.state.running = False


class _Keep:
    def __init__(self, state: _Pass, name: str) -> None:
        self.state = state
        self.name = name

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if self.state.running:
            self.state.kept.setdefault(self.name, []).append(output)
            version = output._version if isinstance(output, Tensor) else 0
            self.state.versions.setdefault(self.name, []).append(version)


def expect_gradient(network: nn.Module, maps: Sequence[Tensor], names: Sequence[str]) -> None:
    """Refuses maps of trained layers without a gradient, which would distill nothing.

    Raises:
        InputError: If gradient checkpointing is reentrant, a layer runs under no_grad, or no layer
            is trained.
    """
    if not torch.is_grad_enabled():
        return
    none_does = not any(features.requires_grad for features in maps)
    for features, name in zip(maps, names, strict=True):
        layer = unwrap(network).get_submodule(name)
        is_trained = any(parameter.requires_grad for parameter in layer.parameters())
        if not features.requires_grad and (none_does or is_trained):
            raise InputError(
                f"the student's map at {name!r} carries no gradient, so nothing would be "
                "distilled into it: is it frozen, under no_grad, or inside gradient "
                "checkpointing with use_reentrant=True (give False)?"
            )


def warn_of_overwritten(name: str) -> None:
    """Warns that a later layer modifies this layer's output in place before the tap reads it."""
    warnings.warn(
        f"layer {name!r} is overwritten by a later layer that works in place: its tap sees the "
        "changed values; pair the layer after it, or give that activation inplace=False",
        stacklevel=3,
    )
