"""What every training loop here does with a batch's losses: checks, gradients, the step.

Gradients are taken outside of autocast, as torch advises. Over several processes they are averaged
here; where DistributedDataParallel has done so already, that changes nothing.
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
    """Puts running statistics back when a step is refused: a batch of NaN must not stay in them."""
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
        model: whose running statistics are put back when the batch is refused.
        losses_of: gives the losses, {name: scalar}.
        context: of the forward passes (autocast).
        learn: takes the losses backward in place of autograd, as PriorLearner.backward does, and
            gives more to report.

    Raises:
        Diverged: a loss is not finite; no weight has moved.
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
    """`backward`, the mean over processes, and the optimiser's step; gradients are then forgotten.

    Raises:
        Diverged: a loss or a gradient is not finite; no weight has moved, no gradient is left.
    """
    try:
        values = backward(model, losses_of, context, learn)
        average_gradients(_held_by(optimizer, model))
        optimizer.step()
    finally:
        optimizer.zero_grad(set_to_none=True)
    return values


def _held_by(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, nn.Parameter]:
    """All that is trained by the optimiser: a loss's or a projection's parameters, too."""
    names = {id(parameter): name for name, parameter in trained_parameters(model).items()}
    every = [one for group in optimizer.param_groups for one in group["params"]]
    return {names.get(id(one), f"parameter {place}"): one for place, one in enumerate(every)}
