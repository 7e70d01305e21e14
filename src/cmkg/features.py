"""Named intermediate activations of any nn.Module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn


class FeatureTap:
    """Keeps the outputs of the named submodules at each forward pass.

        tap = FeatureTap(net, ["layer3", "layer4"])
        prediction = net(x)
        maps = tap.maps  # [output of layer3, output of layer4], in the order of the names

    The maps keep their graph: they are the very tensors of the pass. `close` removes the hooks.

    Raises:
        ValueError: the module has no submodule of such a name; lists those that it has.
    """

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        known = dict(module.named_modules())
        for name in names:
            if name not in known:
                there = ", ".join(filter(None, known))
                raise ValueError(
                    f"{type(module).__name__} has no submodule {name!r}; it has: {there}"
                )
        self.names = list(names)
        self._kept: dict[str, Tensor] = {}
        self._hooks = [known[name].register_forward_hook(self._keep(name)) for name in names]

    def _keep(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._kept[name] = output

        return hook

    @property
    def maps(self) -> list[Tensor]:
        """The tapped outputs of the last forward pass, in the order of the names."""
        missing = [name for name in self.names if name not in self._kept]
        if missing:
            raise RuntimeError(f"no output of {', '.join(missing)} yet: run the network first")
        return [self._kept[name] for name in self.names]

    def clear(self) -> None:
        """Forgets the last maps, and so frees their graph."""
        self._kept.clear()

    def close(self) -> None:
        """Removes the hooks."""
        for hook in self._hooks:
            hook.remove()
        self.clear()
