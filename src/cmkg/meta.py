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

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .errors import InputError
from .prior import Prior

Network = Callable[..., Any]
DAMPING = 0.1  # of a layer's mean sqrt(v), see adam_scales


@contextmanager
def preserve_weights(model: nn.Module, parameters: Sequence[Tensor]) -> Iterator[None]:
    """Lets `parameters` of `model` be overwritten inside; puts them and all buffers back.

    Bit for bit. Forward passes inside may move running statistics (BatchNorm): these are buffers,
    and are put back, too.
    """
    saved = [parameter.detach().clone() for parameter in parameters]
    buffers = list(model.buffers())
    saved_buffers = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, kept in zip(parameters, saved, strict=True):
                parameter.copy_(kept)
            for buffer, kept in zip(buffers, saved_buffers, strict=True):
                buffer.copy_(kept)


@torch.no_grad()
def inner_step_(
    parameters: list[Tensor],
    all_parameters: list[Tensor],
    gradients: list[Tensor],
    prior: Prior,
    alpha: float,
    scales: list[Tensor] | None = None,
) -> list[Tensor]:
    """theta'' <- theta (1 - 2 alpha phi) - alpha grad L_REG in place, for p = 2 and centre 0.

    In general, with the prior's slope in place of 2 theta.

    Args:
        parameters: those that carry phi, in its order.
        all_parameters, gradients: every trained one and its gradient, times its scale.
        prior: whose phi pulls.
        alpha: the step.
        scales: one tensor each of `parameters`, which the slope is multiplied by.

    Returns:
        The slope at theta, scaled, which the closed form needs.
    """
    slope = prior.slope(parameters)
    if scales is not None:
        torch._foreach_mul_(slope, scales)
    torch._foreach_addcmul_(parameters, slope, list(prior.phi.values()), value=-alpha)
    torch._foreach_add_(all_parameters, gradients, alpha=-alpha)
    return slope


@torch.no_grad()
def adam_scales(
    optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor], gradients: Sequence[Tensor]
) -> list[Tensor]:
    """lr / (sqrt(v) + damping) of the step that Adam is about to take, one tensor a parameter.

    The damping is a tenth of the layer's mean sqrt(v), so that a weight whose gradient was next to
    nothing (a dead unit's) does not get a phi thousands of times the others' when the look-ahead
    wakes it.

    Args:
        optimizer: Adam or AdamW.
        parameters, gradients: what it is about to step.

    Raises:
        InputError: an optimiser without Adam's two betas.
    """
    group_of = {one: group for group in optimizer.param_groups for one in group["params"]}
    found = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        group = group_of[parameter]
        state = optimizer.state.get(parameter, {})
        if len(group.get("betas", ())) != 2:
            raise InputError(
                "an inner step of Adam's: expected Adam or AdamW for the student, got "
                f"{type(optimizer).__name__}"
            )
        beta = group["betas"][1]
        earlier = beta * state["exp_avg_sq"] if state else 0
        steps = float(state["step"]) + 1 if state else 1
        v = (1 - beta) * gradient.square() + earlier
        root = (v / (1 - beta**steps)).sqrt()
        found.append(group["lr"] / (root + DAMPING * root.mean() + group["eps"]))
    return found


@torch.no_grad()
def closed_form_gradient(
    slope: list[Tensor], outer_gradients: list[Tensor], alpha: float
) -> list[Tensor]:
    """Algorithm 3: dG/dphi = -alpha * slope * grad G(theta''); for p = 2, -2 alpha theta * grad G.

    Lists of tensors in phi's order. Written into `slope`, which is returned.
    """
    torch._foreach_mul_(slope, outer_gradients)
    torch._foreach_mul_(slope, -alpha)
    return slope


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
        model: the network; its buffers are not moved.
        prior: phi.
        inner_loss, outer_loss: functions of a callable `net` (the model with given weights) to a
            scalar.
        alpha: the inner step.
        steps: l.

    Returns:
        {name: tensor like phi}.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    theta: dict[str, Tensor] = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in model.named_parameters()
    }
    phi = {
        name: one.detach().to(theta[name].dtype).clone().requires_grad_()
        for name, one in prior.phi.items()
    }

    def with_weights(weights: dict[str, Tensor]) -> Network:
        def run(*inputs: Any) -> Any:  # a pass in training mode moves a copy of the buffers only
            copies = {name: buffer.clone() for name, buffer in buffers.items()}
            return functional_call(model, (weights, copies), inputs)

        return run

    for _ in range(steps):
        inner = inner_loss(with_weights(theta))
        gradients = torch.autograd.grad(inner, list(theta.values()), create_graph=True)
        moved = {}
        for (name, weight), gradient in zip(theta.items(), gradients, strict=True):
            moved[name] = weight - alpha * gradient
            if name in phi:
                offset = weight - prior.centre[name] if prior.centre else weight
                slope = 2 * offset if prior.p == 2 else offset.sign()
                moved[name] = moved[name] - alpha * phi[name] * slope
        theta = moved
    outer = outer_loss(with_weights(theta))
    return dict(zip(phi, torch.autograd.grad(outer, list(phi.values())), strict=True))
