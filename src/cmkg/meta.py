"""The gradient of the source loss G with respect to the prior phi: closed form (Alg. 3) and
unrolled (Alg. 1).

One inner step is theta'' = theta - alpha (phi dR/dtheta + grad L_REG(theta)). So d theta''_i / d
phi_i = -alpha times the slope of |theta_i - theta*_i|^p, and for l = 1 the closed form  dG/dphi =
-alpha * slope(theta) * grad G(theta'') is exact. For l > 1 the terms of the inner steps are summed
(first order: relative error about 1e-3 at l = 2); `unrolled_gradient` is exact for any l, for small
networks and as the tests' oracle.

With scales s_i, alpha s_i stands for alpha throughout: a preconditioned inner step, and just as
exact. With Adam's s_i (adam_scales) phi sums what the weights really do, -2 beta theta dtheta at
small alpha; plain SGD's phi is ruled by the weights of large gradients.
"""

from contextlib import contextmanager

import torch
from torch.func import functional_call

from .errors import InputError


@contextmanager
def weights_lent(model, parameters):
    """Lets `parameters` of `model` be overwritten inside the block; puts them and all buffers back
    bit for bit.

    Forward passes in the block may move running statistics (BatchNorm): these are buffers, and
    are put back.
    """
    saved = [t.detach().clone() for t in parameters]
    buffers = list(model.buffers())
    saved_buffers = [b.clone() for b in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for t, kept in zip(parameters, saved, strict=True):
                t.copy_(kept)
            for b, kept in zip(buffers, saved_buffers, strict=True):
                b.copy_(kept)


@torch.no_grad()
def inner_step_(parameters, all_parameters, gradients, prior, alpha, scales=None):
    """theta'' <- theta (1 - 2 alpha phi) - alpha grad L_REG in place (p = 2, centre 0; generally
    the prior's slope).

    parameters: those that carry phi, in its order; all_parameters, gradients: every trained one
    and its gradient. scales: one tensor each of `parameters`, which the slope is multiplied by;
    the gradients come with theirs. Returns the slope at theta, scaled, which the closed form
    needs.
    """
    slope = prior.slope(parameters)
    if scales:
        torch._foreach_mul_(slope, scales)
    torch._foreach_addcmul_(parameters, slope, list(prior.phi.values()), value=-alpha)
    torch._foreach_add_(all_parameters, gradients, alpha=-alpha)
    return slope


DAMPING = 0.1


@torch.no_grad()
def adam_scales(optimizer, parameters, gradients):
    """lr / (sqrt(v) + damping) of the step that Adam is about to take on `gradients`: a tensor each
    of `parameters`.

    The damping is a tenth of the layer's mean sqrt(v), so that a weight whose gradient was next
    to nothing (a dead unit's) does not get a phi thousands of times the others' when the look-
    ahead wakes it. Raises InputError for an optimiser without Adam's two betas.
    """
    group_of = {id(t): group for group in optimizer.param_groups for t in group["params"]}
    found = []
    for t, g in zip(parameters, gradients, strict=True):
        group, state = group_of[id(t)], optimizer.state.get(t, {})
        if len(group.get("betas", ())) != 2:
            raise InputError(
                "an inner step of Adam's: expected Adam or AdamW for the student, got "
                f"{type(optimizer).__name__}"
            )
        beta = group["betas"][1]
        v = (1 - beta) * g.square() + (beta * state["exp_avg_sq"] if state else 0)
        root = (v / (1 - beta ** (float(state["step"]) + 1 if state else 1))).sqrt()
        found.append(group["lr"] / (root + DAMPING * root.mean() + group["eps"]))
    return found


@torch.no_grad()
def closed_form_gradient(slope, outer_gradients, alpha):
    """Alg. 3: dG/dphi = -alpha * slope * grad G(theta''); for p = 2 this is -2 alpha theta * grad
    G.

    Lists of tensors; written into `slope`, which is returned.
    """
    torch._foreach_mul_(slope, outer_gradients)
    torch._foreach_mul_(slope, -alpha)
    return slope


def unrolled_gradient(model, prior, inner_loss, outer_loss, alpha, steps=1):
    """Alg. 1: dG/dphi through `steps` inner updates, exact, with second-order graphs.

    inner_loss, outer_loss: functions of a callable `net` (the model with given weights) -> scalar.
    Returns {name: tensor like phi}. Buffers of the model are not moved.
    """
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    theta = {n: t.detach().clone().requires_grad_() for n, t in model.named_parameters()}
    phi = {n: t.detach().to(theta[n].dtype).clone().requires_grad_() for n, t in prior.phi.items()}

    def run(weights):
        # Buffers are lent as copies: a pass in training mode moves the copy only.
        return lambda *inputs: functional_call(
            model, (weights, {n: b.clone() for n, b in buffers.items()}), inputs
        )

    for _ in range(steps):
        gradients = torch.autograd.grad(
            inner_loss(run(theta)), list(theta.values()), create_graph=True
        )
        moved = {}
        for (name, t), g in zip(theta.items(), gradients, strict=True):
            moved[name] = t - alpha * g
            if name in phi:
                offset = t - (prior.centre[name] if prior.centre else 0.0)
                slope = 2 * offset if prior.p == 2 else offset.sign()
                moved[name] = moved[name] - alpha * phi[name] * slope
        theta = moved
    gradients = torch.autograd.grad(outer_loss(run(theta)), list(phi.values()))
    return dict(zip(phi, gradients, strict=True))
