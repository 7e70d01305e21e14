"""One optimisation step each: supervised (with or without a prior), distil, meta.

Plain functions, for any network. A batch is what the caller passes: `x` for the student,
`x_superior` for the teacher, `y` the target. Feature maps come from FeatureTaps on the student and
the teacher. `context` enters around every forward pass (autocast); `average` is applied to every
list of gradients before use (several processes). Each step returns its losses as floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .errors import Diverged, InputError
from .features import FeatureTap
from .losses import ATTENTION_WEIGHT, distillation_loss, regression_loss, to_float32, to_scalar
from .meta import adam_scales, look_ahead_gradient, scaled
from .modules import call_model, preserve_modes, trained_parameters, unwrap
from .prior import Prior
from .runtime.distributed import average_over_ranks, world_size

Context = Callable[[], AbstractContextManager[Any]]
Loss = Callable[[Any, Any], Any]
Distillation = Callable[[Sequence[Tensor], Sequence[Tensor]], Mapping[str, Tensor]]
Average = Callable[[list[Tensor]], list[Tensor]]
Gradients = dict[str, Tensor]


def keep_gradients(gradients: list[Tensor]) -> list[Tensor]:
    """What one process alone does in place of averaging."""
    return gradients


def _average_for(model: nn.Module, average: Average | None) -> Average:
    """DistributedDataParallel averages in backward(), which a step does not call: the step does."""
    if average is not None:
        return average
    is_parallel = isinstance(model, nn.parallel.DistributedDataParallel)
    return average_over_ranks if is_parallel else keep_gradients


def to_finite_floats(losses: Mapping[str, Tensor], where: str) -> dict[str, float]:
    """The losses as floats.

    Raises:
        Diverged: one is not finite.
    """
    values = {name: float(value.detach()) for name, value in losses.items()}
    for name, value in values.items():
        if not math.isfinite(value):
            raise Diverged(
                f"the {name} loss is {value} {where}: expected a finite number; lower the learning "
                "rate or the prior's strength, or check the data with a smaller run"
            )
    return values


def gradients_of(
    loss: Tensor,
    parameters: Mapping[str, nn.Parameter],
    average: Average = keep_gradients,
    retain_graph: bool = False,
) -> Gradients:
    """{name: gradient} of a scalar loss, averaged over processes.

    A parameter that the loss does not depend on, in any process, is left out.
    """
    tensors = list(parameters.values())
    found: Sequence[Tensor | None] = [None] * len(tensors)
    if loss.requires_grad:  # it does not where all that it depends on is frozen
        found = torch.autograd.grad(loss, tensors, retain_graph=retain_graph, allow_unused=True)
    if average is keep_gradients:
        return {name: g for name, g in zip(parameters, found, strict=True) if g is not None}
    used = torch.tensor([float(g is not None) for g in found], device=loss.device)
    filled = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for gradient, parameter in zip(found, tensors, strict=True)
    ]
    *averaged, used = average([*filled, used.to(filled[0].dtype)])
    return {
        name: gradient
        for name, gradient, share in zip(parameters, averaged, used.tolist(), strict=True)
        if share > 0
    }


@contextmanager
def restore_buffers_on_error(model: nn.Module) -> Iterator[None]:
    """Puts running statistics back when a step is refused: a batch of NaN must not stay in them."""
    saved = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    except BaseException:
        for buffer, kept in saved:
            buffer.data.copy_(kept)
        raise


def expect_finite_gradients(gradients: Mapping[str, Tensor]) -> None:
    """Refuses a gradient that is not finite, by its name.

    Raises:
        Diverged: one is not.
    """
    if not gradients:
        return
    norms = torch.stack([norm.float() for norm in torch._foreach_norm(list(gradients.values()))])
    if not bool(norms.isfinite().all()):
        broken = [name for name, one in gradients.items() if not bool(one.isfinite().all())]
        name = broken[0] if broken else next(iter(gradients))
        raise Diverged(
            f"the gradient of {name!r} is not finite though the loss is: expected a loss that is "
            "smooth there (a square root at 0?), or a lower learning rate"
        )


def average_gradients(parameters: Mapping[str, nn.Parameter], average: Average) -> None:
    """Averages .grad over processes; one that no process has stays None.

    Raises:
        Diverged: one is not finite; no weight has moved.
    """
    if world_size() > 1:
        device = next(iter(parameters.values())).device
        used = torch.tensor([float(p.grad is not None) for p in parameters.values()], device=device)
        torch.distributed.all_reduce(used)
        shared = [p for p, count in zip(parameters.values(), used.tolist(), strict=True) if count]
        own = [torch.zeros_like(p) if p.grad is None else p.grad for p in shared]
        for parameter, gradient in zip(shared, average(own), strict=True):
            parameter.grad = gradient
    found = {name: p.grad for name, p in parameters.items() if p.grad is not None}
    expect_finite_gradients({name: g for name, g in found.items() if not g.is_sparse})


def _take_step(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], gradients: Gradients
) -> None:
    """Adds the gradients to what has been accumulated, steps, and forgets them.

    Raises:
        Diverged: a gradient is not finite; no weight has moved.
    """
    expect_finite_gradients(gradients)
    for name, gradient in gradients.items():
        parameter = parameters[name]
        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def supervised_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Any,
    y: Any,
    loss: Loss = regression_loss,
    prior: Prior | None = None,
    coupled: bool = True,
    context: Context = nullcontext,
    average: Average | None = None,
) -> dict[str, float]:
    """One step on L_REG (Eq. 1), or with a prior on F = L_REG + R(theta; phi) (Eq. 9).

    Nine parameters: the last two belong to several processes and to autocast, and have defaults.

    Args:
        model: the network.
        optimizer: over its parameters.
        x, y: one batch.
        loss: (prediction, target) to a scalar.
        prior: phi; None trains on the loss alone.
        coupled: the prior's gradient goes through the optimiser (the paper); else it shrinks the
            weights directly (Eq. 16).
        context, average: see the module.

    Returns:
        {"regression"}.

    Raises:
        Diverged: the loss is not finite; no weight has moved.
    """
    average = _average_for(model, average)
    own = unwrap(model)
    parameters = trained_parameters(own, loss)
    with restore_buffers_on_error(own):
        with context():
            value = to_scalar(loss(to_float32(call_model(own, x)), y))
        losses = to_finite_floats({"regression": value}, "in this step")
        gradients = gradients_of(value, parameters, average)
        pull = prior.attach(optimizer, own, coupled) if prior is not None else nullcontext()
        with pull:
            _take_step(optimizer, parameters, gradients)
    return losses


@torch.no_grad()
def teacher_maps(
    teacher: nn.Module, teacher_tap: FeatureTap, x_superior: Any, context: Context = nullcontext
) -> list[Tensor]:
    """The teacher's feature maps: always frozen, in eval mode, without gradients."""
    with preserve_modes(teacher), context():
        call_model(teacher.eval(), x_superior)
    return [features.detach() for features in teacher_tap.maps]


def _losses_at(
    student: nn.Module,
    tap: FeatureTap | None,
    x: Any,
    y: Any,
    maps: list[Tensor] | None,
    loss: Loss,
    distillation: Distillation,
    context: Context,
) -> dict[str, Tensor]:
    """The terms of G at the student's present weights; without the teacher's maps L_REG alone."""
    with context():
        prediction = call_model(student, x)
    losses = {"regression": to_scalar(loss(to_float32(prediction), y))}
    if maps is None or tap is None:
        return losses
    return losses | dict(distillation(tap.maps, maps))


def distil_step(
    student: nn.Module,
    tap: FeatureTap,
    teacher: nn.Module,
    teacher_tap: FeatureTap,
    optimizer: torch.optim.Optimizer,
    x: Any,
    x_superior: Any,
    y: Any,
    loss: Loss = regression_loss,
    attention_weight: float = ATTENTION_WEIGHT,
    distillation: Distillation | None = None,
    context: Context = nullcontext,
    average: Average | None = None,
) -> dict[str, float]:
    """One step on G = L_REG + L_DIST (Eqs. 4 and 8).

    Thirteen parameters: two networks with their taps, and a batch of three parts, as Algorithm 3
    names them; the last five have defaults.

    Args:
        student, tap: the network that learns, and the tap on its paired layers.
        teacher, teacher_tap: the frozen network, and the tap on its.
        optimizer: over the student's parameters, and the distillation's if it has any.
        x, x_superior, y: one batch.
        loss: of any task, in place of L_REG.
        attention_weight: lambda of Eq. 4.
        distillation: a losses.DistillationLoss where the layers' shapes differ.
        context, average: see the module.

    Returns:
        {"regression", "activation", "attention"}, weighted as they enter G.

    Raises:
        Diverged: a loss is not finite; no weight has moved.
    """
    distillation = distillation or partial(distillation_loss, attention_weight=attention_weight)
    average = _average_for(student, average)
    own = unwrap(student)
    maps = teacher_maps(teacher, teacher_tap, x_superior, context)
    with restore_buffers_on_error(own):
        parts = _losses_at(own, tap, x, y, maps, loss, distillation, context)
        losses = to_finite_floats(parts, "in this step")
        parameters = trained_parameters(own, distillation, loss)
        _take_step(optimizer, parameters, gradients_of(sum_of(parts), parameters, average))
    return losses


def meta_step(
    student: nn.Module,
    tap: FeatureTap | None,
    teacher: nn.Module | None,
    teacher_tap: FeatureTap | None,
    optimizer: torch.optim.Optimizer,
    priors: Sequence[Prior],
    x: Any,
    x_superior: Any,
    y: Any,
    alpha: float,
    beta: float,
    loss: Loss = regression_loss,
    attention_weight: float = ATTENTION_WEIGHT,
    distillation: Distillation | None = None,
    outer: tuple[Any, Any, Any] | None = None,
    unit_free: bool = False,
    inner_steps: int = 1,
    inner_optimizer: str = "sgd",
    context: Context = nullcontext,
    average: Average | None = None,
) -> dict[str, float]:
    """One iteration of Algorithm 3: learns each prior's phi on one source batch, then moves theta.

    Shared: one forward pass at theta gives L_REG and L_DIST; grad L_REG feeds both the inner step
    and theta's update; the teacher's maps serve theta and theta''. theta'' is written into the
    student's own parameters and taken back bit for bit.

    Twenty parameters: those of `distil_step`, and what Algorithms 1 and 3 leave open, each with the
    paper's value as its default.

    Args:
        student, tap, teacher, teacher_tap, optimizer, x, x_superior, y: see `distil_step`. teacher
            None: G = L_REG, the control without a teacher; it needs no taps.
        priors: whose phi is learned; theta's path does not depend on them.
        alpha: the inner step.
        beta: phi's step.
        loss, attention_weight, distillation: see `distil_step`.
        outer: another batch (x, x_superior, y) for G(theta''); theta then moves on the mean of G
            over both. None is the paper's same batch.
        unit_free: see Prior.learn_.
        inner_steps: l of Algorithm 1; over 1 the terms of the steps are summed, which is exact to
            first order in alpha.
        inner_optimizer: "sgd", the paper's, or "adam": the inner step is alpha of the step that
            `optimizer`, an Adam, takes on its gradient (meta.adam_scales).
        context, average: see the module.

    Returns:
        The losses at theta and, for prior i, G(theta'') as "outer_i".

    Raises:
        InputError: another inner optimiser.
        Diverged: a loss is not finite.
    """
    if inner_optimizer not in ("sgd", "adam"):
        raise InputError(f"inner_optimizer {inner_optimizer!r}: expected sgd or adam")
    if isinstance(priors, Prior):
        priors = [priors]
    distillation = distillation or partial(distillation_loss, attention_weight=attention_weight)
    average = _average_for(student, average)
    own = unwrap(student)
    parameters = trained_parameters(own, distillation, loss)
    for prior in priors:
        prior.bind(own)

    def maps_of(x_superior: Any) -> list[Tensor] | None:
        if teacher is None or teacher_tap is None:
            return None
        return teacher_maps(teacher, teacher_tap, x_superior, context)

    def losses_at(x: Any, y: Any, maps: list[Tensor] | None) -> dict[str, Tensor]:
        return _losses_at(own, tap, x, y, maps, loss, distillation, context)

    with restore_buffers_on_error(own):
        # At theta: the losses, grad L_REG for the inner step, grad G for theta.
        maps = maps_of(x_superior)
        parts = losses_at(x, y, maps)
        losses = to_finite_floats(parts, "in this step")
        regression = parts.pop("regression")
        inner = gradients_of(regression, parameters, average, retain_graph=maps is not None)
        total = dict(inner)
        if maps is not None:
            distilled = gradients_of(sum_of(parts), parameters, average)
            both = [name for name in distilled if name in inner]
            if both:
                torch._foreach_add_([distilled[n] for n in both], [inner[n] for n in both])
            total |= distilled
            assert tap is not None
            tap.clear()  # its maps hold the first pass's memory
        del parts, regression

        outer_x, outer_y, outer_maps = x, y, maps
        if outer is not None:
            outer_x, outer_superior, outer_y = outer
            outer_maps = maps_of(outer_superior)
            G = sum_of(losses_at(outer_x, outer_y, outer_maps))
            there = gradients_of(G, parameters, average)
            total = {
                name: (total.get(name, 0) + there.get(name, 0)) / 2  # type: ignore[misc]
                for name in {**total, **there}
            }

        scales = adam_scales(optimizer, parameters, total) if inner_optimizer == "adam" else None
        inner = scaled(inner, scales)

        def again() -> Gradients:
            value = losses_at(x, y, None)["regression"]
            return scaled(gradients_of(value, parameters, average), scales)

        for number, prior in enumerate(priors):

            def ahead(number: int = number) -> Gradients:
                there = losses_at(outer_x, outer_y, outer_maps)
                floats = to_finite_floats(there, "after the inner step")
                losses[f"outer_{number}"] = sum(floats.values())
                return gradients_of(sum_of(there), parameters, average)

            own_inner = inner if prior is priors[-1] else dict(inner)
            found = look_ahead_gradient(
                prior, own, parameters, own_inner, alpha, ahead, again, inner_steps, scales
            )
            prior.learn_(found, beta, unit_free)
        _take_step(optimizer, parameters, total)
    return losses


def sum_of(losses: Mapping[str, Tensor]) -> Tensor:
    """G of its terms."""
    first, *others = losses.values()
    total = first
    for value in others:
        total = total + value
    return total
