"""Named intermediate activations of any nn.Module."""


class FeatureTap:
    """Keeps the outputs of the named submodules at each forward pass.

        tap = FeatureTap(net, ["layer3", "layer4"])
        prediction = net(x)
        # [output of layer3, output of layer4], in the order of the names
        maps = tap.maps

    The maps keep their graph: they are the very tensors of the pass. `close()` removes the hooks.
    Raises ValueError for a name that the module does not have, listing those it has.
    """

    def __init__(self, module, names):
        known = dict(module.named_modules())
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{type(module).__name__} has no submodule {name!r}; it has: "
                    f"{', '.join(filter(None, known))}"
                )
        self.names, self._kept = list(names), {}
        self._hooks = [known[n].register_forward_hook(self._keep(n)) for n in names]

    def _keep(self, name):
        def hook(_module, _inputs, output):
            self._kept[name] = output

        return hook

    @property
    def maps(self):
        """The tapped outputs of the last forward pass, in the order of the names."""
        missing = [n for n in self.names if n not in self._kept]
        if missing:
            raise RuntimeError(f"no output of {', '.join(missing)} yet: run the network first")
        return [self._kept[n] for n in self.names]

    def clear(self):
        """Forgets the last maps, and so frees their graph."""
        self._kept.clear()

    def close(self):
        for hook in self._hooks:
            hook.remove()
        self.clear()
