"""Gradients of a batch's losses: computed outside of autocast, averaged over processes, checked.

If DistributedDataParallel has already averaged them, averaging again changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import Diverged, InputError
from .runtime.distributed import average_over_ranks, max_over_ranks
from .runtime.ranks import world_size

Gradients = dict[str, Tensor]


def sum_of(losses: Mapping[str, Tensor]) -> Tensor:
    """Returns G, the sum of its terms."""
    first, *others = losses.values()
    return sum(others, first)


def to_finite_floats(losses: Mapping[str, Tensor], where: str) -> dict[str, float]:
    """Returns the losses as floats.

    Raises:
        Diverged: If one is not finite in any process; otherwise that process would end while the
            others wait for it.
    """
    values = {name: float(value.detach()) for name, value in losses.items()}
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    (anywhere,) = max_over_ranks(float(bool(broken)))
    if anywhere:
        problem = "a loss of another process is not finite"
        if broken:
            problem = f"the {broken[0]} loss is {values[broken[0]]}"
        raise Diverged(
            f"{problem} {where}: expected a finite number; lower the learning rate or the prior's "
            "strength, or check the data with a smaller run"
        )
    return values


def gradients_of(
    loss: Tensor, parameters: Mapping[str, nn.Parameter], retain_graph: bool = False
) -> Gradients:
    """Returns {name: gradient} of a scalar loss, averaged over processes.

    Parameters that the loss does not depend on in any process are left out.
    """
    tensors = list(parameters.values())
    gradients: Sequence[Tensor | None] = [None] * len(tensors)
    if loss.requires_grad:  # False if everything it depends on is frozen
        with outside_autocast(loss):
            gradients = torch.autograd.grad(
                loss, tensors, retain_graph=retain_graph, allow_unused=True
            )
        if any(gradient is None for gradient in gradients):
            _refuse_reentrant(loss)
    gradients = _averaged(gradients, tensors)
    return {name: g for name, g in zip(parameters, gradients, strict=True) if g is not None}


def _refuse_reentrant(loss: Tensor) -> None:
    """Refuses a graph with reentrant checkpointing, whose inside autograd.grad skips.

    Raises:
        InputError: If the graph has any.
    """
    nodes, seen = [loss.grad_fn], {loss.grad_fn}
    while nodes:
        node = nodes.pop()
        if node is None:
            continue
        if node.name() == "CheckpointFunctionBackward":
            raise InputError(
                "gradient checkpointing with use_reentrant=True gives no gradient of the weights "
                "inside it, which phi needs: give use_reentrant=False"
            )
        following = {successor for successor, _ in node.next_functions} - seen
        seen |= following
        nodes += following


def outside_autocast(loss: Tensor) -> AbstractContextManager[Any]:
    """Disables autocast: otherwise the backward pass runs float32 layers in half precision."""
    return torch.autocast(loss.device.type, enabled=False)


def _averaged(
    gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]
) -> Sequence[Tensor | None]:
    """Returns each gradient's mean over processes; None if no process has one."""
    if world_size() == 1 or not parameters:
        return gradients
    used = torch.tensor([float(g is not None) for g in gradients], device=parameters[0].device)
    torch.distributed.all_reduce(used)
    places = [place for place, count in enumerate(used.tolist()) if count]
    present = [gradients[place] for place in places]
    filled = [
        torch.zeros_like(parameters[place]) if gradient is None else gradient
        for place, gradient in zip(places, present, strict=True)
    ]
    averaged: list[Tensor | None] = [None] * len(parameters)
    for place, gradient in zip(places, average_over_ranks(filled), strict=True):
        averaged[place] = gradient
    return averaged


def expect_finite_gradients(gradients: Mapping[str, Tensor]) -> None:
    """Refuses gradients that are not finite, by name.

    Raises:
        Diverged: If a gradient is not finite.
    """
    if not gradients:
        return
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(gradients.values()))])
    if not bool(norms.isfinite().all()):
        broken = [
            name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())
        ]
        name = broken[0] if broken else next(iter(gradients))
        raise Diverged(
            f"the gradient of {name!r} is not finite though the loss is: expected a loss that is "
            "smooth there (a square root at 0?), or a lower learning rate"
        )


def average_gradients(parameters: Mapping[str, nn.Parameter]) -> None:
    """Averages .grad over processes; a gradient that no process has stays None.

    Raises:
        Diverged: If a gradient is not finite; no weight has changed.
    """
    if world_size() > 1:
        tensors = list(parameters.values())
        averaged = _averaged([parameter.grad for parameter in tensors], tensors)
        for parameter, gradient in zip(tensors, averaged, strict=True):
            parameter.grad = gradient
    gradients = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    expect_finite_gradients({name: g for name, g in gradients.items() if not g.is_sparse})


def go_backward(losses: Mapping[str, Tensor]) -> None:
    """Adds the gradients of G to .grad, outside of autocast."""
    G = sum_of(losses)
    with outside_autocast(G):
        G.backward()
