"""The gradient of the source loss G with respect to the prior phi: closed form and unrolled.

One inner step is theta'' = theta - alpha (phi dR/dtheta + grad L_REG(theta)). So
d theta''_i / d phi_i = -alpha times the slope of |theta_i - theta*_i|^p, and for l = 1 the closed
form of Algorithm 3, dG/dphi = -alpha slope(theta) grad G(theta''), is exact. For l > 1 the terms
of the inner steps are summed (first order: relative error about 1e-3 at l = 2);
`unrolled_gradient`, Algorithm 1, is exact for any l, for small networks and as the tests' oracle.

With scales s_i, alpha s_i stands for alpha throughout: a preconditioned inner step, and just as
exact. With Adam's s_i (`adam_scales`) phi sums what the weights really do, -2 beta theta dtheta at
small alpha; plain SGD's phi is ruled by the weights of large gradients.
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
from .prior import Prior, weighted_norm

Network = Callable[..., Any]
DAMPING = 0.1  # of a layer's mean sqrt(v), see adam_scales


@contextmanager
def differentiable_max_norm(model: nn.Module) -> Iterator[None]:
    """Inside, embeddings of max_norm= shorten the vectors that they give, with a gradient.

    Else each pass rewrites the weight in place: a look-ahead's derivative would not know it, and an
    unrolled graph would break.

    Raises:
        InputError: an EmbeddingBag with max_norm=.
    """
    changed: list[nn.Embedding] = []
    for one in model.modules():
        if getattr(one, "max_norm", None) is None:
            continue
        if not isinstance(one, nn.Embedding):
            raise InputError(
                f"{type(one).__name__}(max_norm=) rewrites its weight in each pass, which a "
                "look-ahead cannot follow: give max_norm=None, or nn.Embedding"
            )
        if type(one).forward is not nn.Embedding.forward or "forward" in vars(one):
            raise InputError(
                f"{type(one).__name__}(max_norm=) with a forward of its own: a look-ahead cannot "
                "follow how it shortens its vectors; give max_norm=None"
            )
        changed.append(one)
    try:
        for layer in changed:
            layer.forward = partial(_embed, layer)  # type: ignore[method-assign]
        yield
    finally:
        for layer in changed:
            del layer.forward


def _embed(layer: nn.Embedding, numbers: Tensor) -> Tensor:
    """As torch.embedding_renorm_ does it, without writing into the weight."""
    given = nn.functional.embedding(
        numbers, layer.weight, layer.padding_idx, None, 2.0, layer.scale_grad_by_freq, layer.sparse
    )
    assert layer.max_norm is not None
    norms = given.norm(layer.norm_type, dim=-1, keepdim=True)
    short = layer.max_norm / (norms + 1e-7)
    return torch.where(norms > layer.max_norm, given * short, given)


@contextmanager
def without_checkpointing() -> Iterator[None]:
    """Inside, non-reentrant gradient checkpointing keeps all activations, and recomputes nothing.

    It would recompute them with the weights that the network holds when the graph goes backward,
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
    """theta'' <- theta (1 - 2 alpha phi) - alpha grad L_REG in place, for p = 2 and centre 0.

    In general, with the prior's slope in place of 2 theta. A weight without a gradient stays.

    Args:
        weights: {name: trained weight}.
        gradients: {name: its gradient, times its scale}, of some or all.
        prior: whose phi pulls.
        alpha: the step.
        scales: {name: tensor that the slope is multiplied by}.

    Returns:
        {name: slope at theta, scaled}, which the closed form needs.
    """
    held = {name: weights[name].data for name in prior.phi if name in gradients}
    slope = slope_at(weights, list(held), prior, scales)
    if not slope:
        return slope
    phi = [prior.phi[name].to(weight.device) for name, weight in held.items()]
    torch._foreach_addcmul_(list(held.values()), list(slope.values()), phi, value=-alpha)
    moved = [weights[name].data for name in gradients]
    torch._foreach_add_(moved, list(gradients.values()), alpha=-alpha)
    return slope


@torch.no_grad()
def slope_at(
    weights: Tensors, names: Iterable[str], prior: Prior, scales: Tensors | None = None
) -> dict[str, Tensor]:
    """{name: slope of the prior at these weights, times its scale}."""
    slope = prior.slope({name: weights[name] for name in names})
    if slope and scales is not None:
        torch._foreach_mul_(list(slope.values()), [scales[name] for name in slope])
    return slope


@torch.no_grad()
def adam_scales(
    optimizer: torch.optim.Optimizer, weights: Tensors, gradients: Tensors
) -> dict[str, Tensor]:
    """{name: lr / (sqrt(v) + damping)} of the step that Adam is about to take.

    The damping is a tenth of the layer's mean sqrt(v), so that a weight whose gradient was next to
    nothing (a dead unit's) does not get a phi thousands of times the others' when the look-ahead
    wakes it.

    Args:
        optimizer: Adam or AdamW.
        weights: {name: weight}.
        gradients: {name: gradient that it is about to take}, of some or all of them.

    Raises:
        InputError: another optimiser (Adamax has no second moment), or one without a weight.
    """
    if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        raise InputError(
            "an inner step of Adam's: expected Adam or AdamW for the student, got "
            f"{type(optimizer).__name__}; or give inner_optimizer='sgd'"
        )
    group_of = groups_by_parameter(optimizer)
    found = {}
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
        found[name] = group["lr"] / (root + DAMPING * root.mean() + group["eps"])
    return found


@torch.no_grad()
def closed_form_gradient(
    slope: Tensors, outer_gradients: Tensors, alpha: float
) -> dict[str, Tensor]:
    """Algorithm 3: dG/dphi = -alpha * slope * grad G(theta''); for p = 2, -2 alpha theta * grad G.

    Of {name: tensor}. Written into `slope`; where G has no gradient, phi has none.
    """
    found = {name: one for name, one in slope.items() if name in outer_gradients}
    if found:
        torch._foreach_mul_(list(found.values()), [outer_gradients[name] for name in found])
        torch._foreach_mul_(list(found.values()), -alpha)
    return found


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
    """{name: dG/dphi}, Algorithm 3: theta'' in the model's own weights, G there, theta back.

    Args:
        prior: phi.
        model: whose buffers are put back, too.
        weights: {name: trained weight}.
        inner: {name: grad L_REG at theta, times its scale}; it is emptied as soon as it is used.
        alpha: the inner step.
        outer: gives {name: grad G} at the weights as they are then.
        again: gives what `inner` is at the next inner step, for steps over 1.
        steps: l; the terms of the steps are summed, which is exact to first order in alpha.
        scales: see `adam_scales`.
    """
    with preserve_weights(model, weights.values()), differentiable_max_norm(model):
        slope = inner_step_(weights, inner, prior, alpha, scales)
        inner.clear()
        names = list(slope)
        if steps == 1:
            slope.clear()  # it is theta's, which comes back: a copy of the weights less
        for _ in range(steps - 1):
            assert again is not None
            for name, more in inner_step_(weights, again(), prior, alpha, scales).items():
                slope[name] = slope[name] + more if name in slope else more
        outward = outer()
    if steps == 1:
        slope = slope_at(weights, names, prior, scales)
    return closed_form_gradient(slope, outward, alpha)


def scaled(gradients: Tensors, scales: Tensors | None) -> dict[str, Tensor]:
    """{name: gradient times its scale}, in a dict of its own."""
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
    """Algorithm 1: dG/dphi through `steps` inner updates, exact, with second-order graphs.

    Args:
        model: the network; its buffers are not moved, nor its weights that are not trained.
        prior: phi.
        inner_loss, outer_loss: functions of a callable `net` (the model with given weights) to a
            scalar.
        alpha: the inner step.
        steps: l.

    Returns:
        {name: tensor like phi}.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    theta = {name: one for name, one in model.named_parameters() if one.requires_grad}
    phi, penalty = as_function_of_phi(prior, theta)

    def at(loss: Callable[[Network], Tensor]) -> Callable[[Tensors], Tensor]:
        def value(weights: Tensors) -> Tensor:
            def run(*inputs: Any) -> Any:  # in training mode a pass moves a copy of the buffers
                copies = {name: buffer.clone() for name, buffer in buffers.items()}
                return functional_call(model, (dict(weights), copies), inputs)

            return loss(run)

        return value

    return unroll(theta, penalty, phi, (at(inner_loss), at(outer_loss)), alpha, steps)


def as_function_of_phi(
    prior: Prior, weights: Tensors
) -> tuple[dict[str, Tensor], Callable[[Tensors], Tensor]]:
    """phi of these weights as leaves to take the gradient of, and R at {name: weight}."""
    phi = {
        name: one.detach().to(weights[name]).clone().requires_grad_()
        for name, one in prior.phi.items()
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
    """Algorithm 1 for any differentiable R(theta; phi): {name: dG/dphi}, exact for any l.

    A weight that L_REG does not see stays where it is, whatever R says.

    Args:
        weights: {name: trained weight}; they are not moved.
        regulariser: R, a function of {name: weight} to a scalar.
        phi: the leaves that R depends on.
        losses: L_REG and G, functions of {name: weight} to a scalar.
        alpha: the inner step.
        steps: l.
        scales: see `adam_scales`.
    """
    with without_checkpointing():
        inner_loss, outer_loss = losses
        theta = {name: one.detach().clone().requires_grad_() for name, one in weights.items()}
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
            for name, weight, gradient, held in zip(names, values, gradients, pulls, strict=True):
                moved[name] = weight
                if gradient is None:  # a branch that this batch does not take
                    continue
                rate = alpha if scales is None else alpha * scales[name]
                moved[name] = weight - rate * (gradient if held is None else gradient + held)
            theta = moved
        outer = outer_loss(theta)
        with outside_autocast(outer):
            found = torch.autograd.grad(outer, list(phi.values()), allow_unused=True)
    return {
        name: torch.zeros_like(one) if gradient is None else gradient
        for (name, one), gradient in zip(phi.items(), found, strict=True)
    }
