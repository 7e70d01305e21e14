"""One optimisation step each: supervised (with or without a prior), distil, meta. Plain functions,
any network.

A batch is what the caller passes: `x` for the student, `x_superior` for the teacher, `y` the
target. Feature maps come from FeatureTaps on the student and the teacher. `context` enters
around every forward pass (autocast); `average` is applied to every list of gradients before use
(several processes). Each step returns floats.
"""

import math
from contextlib import contextmanager, nullcontext
from functools import partial

import torch

from .errors import InputError
from .losses import ATTENTION_WEIGHT, distillation_loss, regression_loss, widened
from .meta import adam_scales, closed_form_gradient, inner_step_, weights_lent


@contextmanager
def modes_kept(*models):
    """Puts the training or eval mode of every submodule back after the block: some may be frozen
    in eval."""
    modes = [(m, m.training) for model in models for m in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _keep(gradients):
    return gradients


def _finite(losses, where):
    values = {k: float(v.detach()) for k, v in losses.items()}
    bad = [k for k, v in values.items() if not math.isfinite(v)]
    if bad:
        raise InputError(
            f"the {bad[0]} loss is {values[bad[0]]} {where}: expected a finite number; lower "
            "the learning rate "
            "or the prior's strength, or check the data with a smaller run"
        )
    return values


def trained(*models):
    """The parameters that training moves, of networks and of losses that have any."""
    return [
        t
        for m in models
        if isinstance(m, torch.nn.Module)
        for t in m.parameters()
        if t.requires_grad
    ]


def called(model, x):
    """The model's output: x is one input, a tuple of several, or a dict of named ones."""
    return (
        model(**x)
        if isinstance(x, dict)
        else model(*x)
        if isinstance(x, (tuple, list))
        else model(x)
    )


def _gradients(loss, parameters, average, retain_graph=False):
    found = torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True)
    return average(
        [torch.zeros_like(t) if g is None else g for g, t in zip(found, parameters, strict=True)]
    )


def _assign(parameters, gradients):
    for t, g in zip(parameters, gradients, strict=True):
        t.grad = g


def _step(optimizer):
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _apply(optimizer, parameters, gradients):
    _assign(parameters, gradients)
    _step(optimizer)


def supervised_step(
    model,
    optimizer,
    x,
    y,
    loss=regression_loss,
    prior=None,
    coupled=True,
    context=nullcontext,
    average=_keep,
):
    """One step on L_REG (Eq. 1), or with a prior on F = L_REG + R(theta; phi) (Eq. 9).

    coupled: the prior's gradient goes through the optimiser (the paper); else it shrinks the
    weights directly (Eq. 16). Returns {"regression"}.
    """
    parameters = trained(model)
    with context():
        value = loss(widened(called(model, x)), y)
    losses = _finite({"regression": value}, "in this step")
    _assign(parameters, _gradients(value, parameters, average))
    if prior is not None:
        held = prior.bind(model)
        prior.add_to_gradients(held) if coupled else prior.decay_(
            held, optimizer.param_groups[0]["lr"]
        )
    _step(optimizer)
    return losses


@torch.no_grad()
def teacher_maps(teacher, teacher_tap, x_superior, context=nullcontext):
    """The teacher's feature maps: frozen, in eval mode, without gradients - always."""
    teacher.eval()
    with context():
        called(teacher, x_superior)
    return [m.detach() for m in teacher_tap.maps]


def _losses_at(student, tap, x, y, maps, loss, distillation, context):
    with context():
        prediction = called(student, x)
    return {"regression": loss(widened(prediction), y)} | distillation(tap.maps, maps)


def distil_step(
    student,
    tap,
    teacher,
    teacher_tap,
    optimizer,
    x,
    x_superior,
    y,
    loss=regression_loss,
    attention_weight=ATTENTION_WEIGHT,
    distillation=None,
    context=nullcontext,
    average=_keep,
):
    """One step on G = L_REG + L_DIST (Eqs. 4 and 8). Returns {"regression", "activation",
    "attention"}, weighted.

    loss: of any task, in place of L_REG. distillation: losses.DistillationLoss where the layers'
    shapes differ.
    """
    distillation = distillation or partial(distillation_loss, attention_weight=attention_weight)
    maps = teacher_maps(teacher, teacher_tap, x_superior, context)
    parts = _losses_at(student, tap, x, y, maps, loss, distillation, context)
    losses = _finite(parts, "in this step")
    parameters = trained(student, distillation)
    _apply(optimizer, parameters, _gradients(sum(parts.values()), parameters, average))
    return losses


def meta_step(
    student,
    tap,
    teacher,
    teacher_tap,
    optimizer,
    priors,
    x,
    x_superior,
    y,
    alpha,
    beta,
    loss=regression_loss,
    attention_weight=ATTENTION_WEIGHT,
    distillation=None,
    outer=None,
    unit_free=False,
    inner_steps=1,
    inner_optimizer="sgd",
    context=nullcontext,
    average=_keep,
):
    """One iteration of Algorithm 3 (l = 1): learns each prior's phi on one source batch, then moves
    theta on G.

    Shared: one forward pass at theta gives L_REG and L_DIST; grad L_REG feeds both the inner
    step and theta's update; the teacher's maps serve theta and theta''. theta'' is written into
    the student's own parameters and taken back. outer: another batch (x, x_superior, y) for
    G(theta''), theta then moves on the mean of G over both; None is the paper's same batch.
    inner_steps: l of Algorithm 1; over 1 the terms of the steps are summed, which is exact to
    first order in alpha. inner_optimizer: sgd, the paper's, or adam: the inner step is alpha of
    the step that `optimizer`, an Adam, takes on its gradient (meta.adam_scales). Raises
    InputError for another one. teacher None: G = L_REG, the no-teacher control. loss,
    distillation: see distil_step. unit_free: see Prior.learn_. Returns the losses at theta and,
    per prior, G(theta'').
    """
    if inner_optimizer not in ("sgd", "adam"):
        raise InputError(f"inner_optimizer {inner_optimizer!r}: expected sgd or adam")
    distillation = distillation or partial(distillation_loss, attention_weight=attention_weight)
    maps = teacher_maps(teacher, teacher_tap, x_superior, context) if teacher else None
    parameters = trained(student, distillation)

    def at(b, m):
        return (
            {"regression": loss(_forward(student, b[0], context), b[2])}
            if m is None
            else _losses_at(student, tap, b[0], b[2], m, loss, distillation, context)
        )

    parts = at((x, x_superior, y), maps)
    losses = _finite(parts, "in this step")
    inner = _gradients(parts["regression"], parameters, average, retain_graph=maps is not None)
    total = inner
    if maps is not None:
        distilled = _gradients(
            sum(v for k, v in parts.items() if k != "regression"), parameters, average
        )
        torch._foreach_add_(distilled, inner)
        total = distilled
        tap.clear()  # its maps hold the first pass's memory
    del parts
    batch, outer_maps = (x, x_superior, y), maps
    if outer is not None:
        batch, outer_maps = (
            outer,
            teacher_maps(teacher, teacher_tap, outer[1], context) if teacher else None,
        )
        there = _gradients(sum(at(batch, outer_maps).values()), parameters, average)
        total = [(a + b) / 2 for a, b in zip(total, there, strict=True)]
    scales = adam_scales(optimizer, parameters, total) if inner_optimizer == "adam" else None

    def scaled(gradients):
        return torch._foreach_mul(gradients, scales) if scales else gradients

    scale_of, inner = scales and dict(zip(map(id, parameters), scales, strict=True)), scaled(inner)
    for i, prior in enumerate(priors):
        held = prior.bind(student)
        held_scales = scales and [scale_of[id(t)] for t in held]
        with weights_lent(student, parameters):
            slope = inner_step_(held, parameters, inner, prior, alpha, held_scales)
            for _ in range(inner_steps - 1):
                again = _gradients(loss(_forward(student, x, context), y), parameters, average)
                torch._foreach_add_(
                    slope, inner_step_(held, parameters, scaled(again), prior, alpha, held_scales)
                )
            ahead = at(batch, outer_maps)
            losses[f"outer_{i}"] = sum(_finite(ahead, "after the inner step").values())
            gradients = dict(
                zip(
                    map(id, parameters),
                    _gradients(sum(ahead.values()), parameters, average),
                    strict=True,
                )
            )
        prior.learn_(
            closed_form_gradient(slope, [gradients[id(t)] for t in held], alpha), beta, unit_free
        )
    _apply(optimizer, parameters, total)
    return losses


def _forward(model, x, context):
    with context():
        return widened(called(model, x))
