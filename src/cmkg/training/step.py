"""One training step from a batch's losses: checks, gradients, and the optimizer's step.

Gradients are computed outside of autocast, as torch recommends, and averaged over processes. If
DistributedDataParallel has already averaged them, this changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..gradients import average_gradients, go_backward, to_finite_floats
from ..modules import put_back_, trained_parameters

Context = Callable[[], AbstractContextManager[Any]]


@contextmanager
def restore_buffers_on_error(model: nn.Module) -> Iterator[None]:
    """Restores running statistics if a step fails, so that a batch of NaN cannot corrupt them."""
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    except BaseException:
        for buffer, kept in saved:
            put_back_(buffer, kept)
        raise


def backward(
    model: nn.Module,
    losses_of: Callable[[], Mapping[str, Tensor]],
    context: Context = nullcontext,
    learn: Callable[[Mapping[str, Tensor]], dict[str, float]] | None = None,
) -> dict[str, float]:
    """Adds the gradients of one batch's losses to .grad; returns the losses.

    Args:
        model: The network; its running statistics are restored if the batch is refused.
        losses_of: Returns the losses, {name: scalar}.
        context: The context of the forward passes (autocast).
        learn: Runs the losses' backward instead of autograd, as PriorLearner.backward does, and
            returns additional values to report.

    Raises:
        Diverged: If a loss is not finite; no weight has changed.
    """
    with restore_buffers_on_error(model):
        with context():
            losses = losses_of()
        values = to_finite_floats(losses, "in this step")
        if learn is not None:
            with context():
                return values | learn(losses)
    go_backward(losses)
    return values


def take_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses_of: Callable[[], Mapping[str, Tensor]],
    context: Context = nullcontext,
    learn: Callable[[Mapping[str, Tensor]], dict[str, float]] | None = None,
) -> dict[str, float]:
    """Runs `backward`, averages over processes, takes the optimizer's step, and clears gradients.

    Raises:
        Diverged: If a loss or a gradient is not finite; no weight has changed, and gradients are
            cleared.
    """
    try:
        values = backward(model, losses_of, context, learn)
        average_gradients(_held_by(optimizer, model))
        optimizer.step()
    finally:
        optimizer.zero_grad(set_to_none=True)
    return values


def _held_by(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns all parameters of the optimizer, including a loss's or a projection's."""
    names = {id(parameter): name for name, parameter in trained_parameters(model).items()}
    every = [weight for group in optimizer.param_groups for weight in group["params"]]
    return {
        names.get(id(weight), f"parameter {place}"): weight for place, weight in enumerate(every)
    }
