"""Small helpers for anybody's modules: calling them, their modes, their trained parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


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


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside torch.compile's wrapper, whose parameters have their own names."""
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def call_model(model: Callable[..., Any], x: Any) -> Any:
    """The model's output for one input, a tuple of several, or a dict of named ones."""
    if isinstance(x, dict):
        return model(**x)
    return model(*x) if isinstance(x, (tuple, list)) else model(x)


def trained_parameters(*models: object) -> dict[str, nn.Parameter]:
    """{name: parameter} that training moves, of networks and of losses that have any.

    Names of the first model are its own; those of a later one begin with its place, "1/".
    """
    found = {}
    for place, model in enumerate(models):
        if not isinstance(model, nn.Module):
            continue
        for name, parameter in unwrap(model).named_parameters():
            if parameter.requires_grad:
                found[f"{place}/{name}" if place else name] = parameter
    return found
