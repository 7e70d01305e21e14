"""Computes the gradient of the source loss G in the prior phi, in closed form or unrolled.

One inner step is theta'' = theta - alpha (phi dR/dtheta + grad L_REG(theta)). So
d theta''_i / d phi_i = -alpha times the slope of |theta_i - theta*_i|^p, and for l = 1 the closed
form of Algorithm 3, dG/dphi = -alpha slope(theta) grad G(theta''), is exact. For l > 1 the terms
of the inner steps are summed (first order: relative error about 1e-3 at l = 2).
`unrolled_gradient` (Algorithm 1) is exact for any l; it suits small networks and serves as the
tests' reference.

With scales s_i, alpha s_i replaces alpha throughout; this preconditioned inner step is equally
exact. With Adam's s_i (`adam_scales`), phi accumulates the weights' actual updates, -2 beta theta
dtheta at small alpha. With plain SGD, weights with large gradients dominate phi.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import InputError
from ..gradients import outside_autocast
from ..modules import groups_by_parameter, preserve_weights
from .parameters import Tensors
from .penalty import weighted_norm
from .prior import Prior

Network = Callable[..., Any]
DAMPING = 0.1  # fraction of a layer's mean sqrt(v), see adam_scales


@contextmanager
def differentiable_max_norm(model: nn.Module) -> Iterator[None]:
    """Makes embeddings with max_norm= renormalize their output differentiably inside the block.

    Otherwise each pass rewrites the weight in place: a look-ahead's derivative would ignore it,
    and an unrolled graph would break.

    Raises:
        InputError: If the model has an EmbeddingBag with max_norm=.
    """
    changed: list[nn.Embedding] = []
    for child in model.modules():
        if getattr(child, "max_norm", None) is None:
            continue
        if not isinstance(child, nn.Embedding):
            raise InputError(
                f"{type(child).__name__}(max_norm=) rewrites its weight in each pass, which a "
                "look-ahead cannot follow: give max_norm=None, or nn.Embedding"
            )
        if type(child).forward is not nn.Embedding.forward or "forward" in vars(child):
            raise InputError(
                f"{type(child).__name__}(max_norm=) with a forward of its own: a look-ahead cannot "
                "follow how it shortens its vectors; give max_norm=None"
            )
        changed.append(child)
    try:
        for layer in changed:
            layer.forward = partial(_embed, layer)  # type: ignore[method-assign]
        yield
    finally:
        for layer in changed:
            del layer.forward


def _embed(layer: nn.Embedding, numbers: Tensor) -> Tensor:
    """Does what torch.embedding_renorm_ does, without writing to the weight."""
    given = nn.functional.embedding(
        numbers, layer.weight, layer.padding_idx, None, 2.0, layer.scale_grad_by_freq, layer.sparse
    )
    assert layer.max_norm is not None
    norms = given.norm(layer.norm_type, dim=-1, keepdim=True)
    short = layer.max_norm / (norms + 1e-7)
    return torch.where(norms > layer.max_norm, given * short, given)


@contextmanager
def without_checkpointing() -> Iterator[None]:
    """Makes non-reentrant gradient checkpointing keep all activations inside the block.

    Otherwise it would recompute them with the network's weights at the time of the backward pass,
    which are not those of an unrolled step.
    """
    module = torch.utils.checkpoint
    name = "_checkpoint_without_reentrant_generator"
    original = getattr(module, name)

    def keep_all(*_: Any, **__: Any) -> Iterator[None]:
        yield

    setattr(module, name, keep_all)
    try:
        yield
    finally:
        setattr(module, name, original)


@torch.no_grad()
def inner_step_(
    weights: Tensors, gradients: Tensors, prior: Prior, alpha: float, scales: Tensors | None = None
) -> dict[str, Tensor]:
    """Takes the inner step theta'' <- theta (1 - 2 alpha phi) - alpha grad L_REG in place.

    This form is for p = 2 and center 0; in general the prior's slope replaces 2 theta. Weights
    without a gradient stay unchanged.

    Args:
        weights: {name: trained weight}.
        gradients: {name: gradient times its scale}, for some or all weights.
        prior: The prior phi.
        alpha: The inner step size.
        scales: {name: tensor that multiplies the slope}.

    Returns:
        {name: scaled slope at theta}, which the closed form needs.
    """
    moving = {name: weights[name].data for name in prior.phi if name in gradients}
    slope = slope_at(weights, list(moving), prior, scales)
    if not slope:
        return slope
    phi = [prior.phi[name].to(weight.device) for name, weight in moving.items()]
    torch._foreach_addcmul_(list(moving.values()), list(slope.values()), phi, value=-alpha)
    moved = [weights[name].data for name in gradients]
    torch._foreach_add_(moved, list(gradients.values()), alpha=-alpha)
    return slope


@torch.no_grad()
def slope_at(
    weights: Tensors, names: Iterable[str], prior: Prior, scales: Tensors | None = None
) -> dict[str, Tensor]:
    """Returns {name: slope of the prior at these weights, times its scale}."""
    slope = prior.slope({name: weights[name] for name in names})
    if slope and scales is not None:
        torch._foreach_mul_(list(slope.values()), [scales[name] for name in slope])
    return slope


@torch.no_grad()
def adam_scales(
    optimizer: torch.optim.Optimizer, weights: Tensors, gradients: Tensors
) -> dict[str, Tensor]:
    """Returns {name: lr / (sqrt(v) + damping)} for the step that Adam is about to take.

    The damping is a tenth of the layer's mean sqrt(v). Without it, a weight whose gradient was
    nearly zero (a dead unit) would get a phi thousands of times larger than the others when the
    look-ahead activates it.

    Args:
        optimizer: Adam or AdamW.
        weights: {name: weight}.
        gradients: {name: gradient of the coming step}, for some or all weights.

    Raises:
        InputError: If it is another optimizer (Adamax has no second moment), or lacks a weight.
    """
    if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        raise InputError(
            "an inner step of Adam's: expected Adam or AdamW for the student, got "
            f"{type(optimizer).__name__}; or give inner_optimizer='sgd'"
        )
    group_of = groups_by_parameter(optimizer)
    rates = {}
    for name, gradient in gradients.items():
        weight = weights[name]
        if id(weight) not in group_of:
            raise InputError(
                f"an inner step of Adam's: the optimiser does not hold {name!r}, which is trained"
            )
        group = group_of[id(weight)]
        if group.get("amsgrad"):
            raise InputError(
                "an inner step of Adam's: amsgrad is not supported; give inner_optimizer='sgd'"
            )
        state = optimizer.state.get(weight, {})
        beta = group["betas"][1]
        earlier = beta * state["exp_avg_sq"] if state else 0
        steps = float(state["step"]) + 1 if state else 1
        v = (1 - beta) * gradient.square() + earlier
        root = (v / (1 - beta**steps)).sqrt()
        rates[name] = group["lr"] / (root + DAMPING * root.mean() + group["eps"])
    return rates


@torch.no_grad()
def closed_form_gradient(
    slope: Tensors, outer_gradients: Tensors, alpha: float
) -> dict[str, Tensor]:
    """Returns dG/dphi = -alpha * slope * grad G(theta'') of Algorithm 3 as {name: tensor}.

    For p = 2 it is -2 alpha theta * grad G. The result overwrites `slope`; where G has no
    gradient, phi has none.
    """
    gradients = {name: value for name, value in slope.items() if name in outer_gradients}
    if gradients:
        torch._foreach_mul_(list(gradients.values()), [outer_gradients[name] for name in gradients])
        torch._foreach_mul_(list(gradients.values()), -alpha)
    return gradients


def look_ahead_gradient(
    prior: Prior,
    model: nn.Module,
    weights: Mapping[str, Tensor],
    inner: dict[str, Tensor],
    alpha: float,
    outer: Callable[[], Tensors],
    again: Callable[[], Tensors] | None = None,
    steps: int = 1,
    scales: Tensors | None = None,
) -> dict[str, Tensor]:
    """Returns {name: dG/dphi} of Algorithm 3; evaluates G at theta'' and restores theta.

    Args:
        prior: The prior phi.
        model: The network; its buffers are restored, too.
        weights: {name: trained weight}; they hold theta'' temporarily.
        inner: {name: grad L_REG at theta, times its scale}; it is emptied once used.
        alpha: The inner step size.
        outer: Returns {name: grad G} at the current weights.
        again: Returns `inner` for the next inner step, if steps > 1.
        steps: The number of inner steps l; their terms are summed, which is exact to first order
            in alpha.
        scales: See `adam_scales`.
    """
    with preserve_weights(model, weights.values()), differentiable_max_norm(model):
        slope = inner_step_(weights, inner, prior, alpha, scales)
        inner.clear()
        names = list(slope)
        if steps == 1:
            slope.clear()  # theta's slope can be recomputed: saves one copy of the weights
        for _ in range(steps - 1):
            assert again is not None
            for name, more in inner_step_(weights, again(), prior, alpha, scales).items():
                slope[name] = slope[name] + more if name in slope else more
        outward = outer()
    if steps == 1:
        slope = slope_at(weights, names, prior, scales)
    return closed_form_gradient(slope, outward, alpha)


def scaled(gradients: Tensors, scales: Tensors | None) -> dict[str, Tensor]:
    """Returns {name: gradient times its scale} as a new dict."""
    if scales is None:
        return dict(gradients)
    return {name: gradient * scales[name] for name, gradient in gradients.items()}


def unrolled_gradient(
    model: nn.Module,
    prior: Prior,
    inner_loss: Callable[[Network], Tensor],
    outer_loss: Callable[[Network], Tensor],
    alpha: float,
    steps: int = 1,
) -> dict[str, Tensor]:
    """Returns the exact dG/dphi through `steps` inner updates by second-order graphs, Algorithm 1.

    Args:
        model: The network; its buffers and frozen weights are left unchanged.
        prior: The prior phi.
        inner_loss, outer_loss: Functions that map a callable `net` (the model with given weights)
            to a scalar.
        alpha: The inner step size.
        steps: The number of inner steps l.

    Returns:
        {name: tensor like phi}.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    theta = {
        name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad
    }
    phi, penalty = as_function_of_phi(prior, theta)

    def at(loss: Callable[[Network], Tensor]) -> Callable[[Tensors], Tensor]:
        def value(weights: Tensors) -> Tensor:
            def run(*inputs: Any) -> Any:  # in training mode a pass updates a copy of the buffers
                copies = {name: buffer.clone() for name, buffer in buffers.items()}
                return functional_call(model, (dict(weights), copies), inputs)

            return loss(run)

        return value

    return unroll(theta, penalty, phi, (at(inner_loss), at(outer_loss)), alpha, steps)


def as_function_of_phi(
    prior: Prior, weights: Tensors
) -> tuple[dict[str, Tensor], Callable[[Tensors], Tensor]]:
    """Returns phi of these weights as leaf tensors, and R as a function of {name: weight}."""
    phi = {
        name: value.detach().to(weights[name]).clone().requires_grad_()
        for name, value in prior.phi.items()
        if name in weights
    }

    def penalty(at: Tensors) -> Tensor:
        return weighted_norm({name: at[name] for name in phi}, phi, prior.p, prior.centre)

    return phi, penalty


def unroll(
    weights: Tensors,
    regulariser: Callable[[dict[str, Tensor]], Tensor],
    phi: Tensors,
    losses: tuple[Callable[[dict[str, Tensor]], Tensor], Callable[[dict[str, Tensor]], Tensor]],
    alpha: float,
    steps: int = 1,
    scales: Tensors | None = None,
) -> dict[str, Tensor]:
    """Returns {name: dG/dphi} of Algorithm 1 for any differentiable R(theta; phi), exact for any l.

    A weight that L_REG does not depend on stays unchanged, whatever R's gradient is.

    Args:
        weights: {name: trained weight}; they are left unchanged.
        regulariser: R, a function that maps {name: weight} to a scalar.
        phi: The leaf tensors that R depends on.
        losses: L_REG and G, functions that map {name: weight} to a scalar.
        alpha: The inner step size.
        steps: The number of inner steps l.
        scales: See `adam_scales`.
    """
    with without_checkpointing():
        inner_loss, outer_loss = losses
        theta = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
        for _ in range(steps):
            names, values = list(theta), list(theta.values())
            pulls: Sequence[Tensor | None] = [None] * len(names)
            pull = regulariser(theta)
            inner = inner_loss(theta)
            with outside_autocast(inner):
                if pull.requires_grad:
                    pulls = torch.autograd.grad(pull, values, create_graph=True, allow_unused=True)
                gradients = torch.autograd.grad(inner, values, create_graph=True, allow_unused=True)
            moved = {}
            for name, weight, gradient, slope in zip(names, values, gradients, pulls, strict=True):
                moved[name] = weight
                if gradient is None:  # a branch that this batch does not use
                    continue
                rate = alpha if scales is None else alpha * scales[name]
                moved[name] = weight - rate * (gradient if slope is None else gradient + slope)
            theta = moved
        outer = outer_loss(theta)
        with outside_autocast(outer):
            outer_gradients = torch.autograd.grad(outer, list(phi.values()), allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(phi.items(), outer_gradients, strict=True)
    }
