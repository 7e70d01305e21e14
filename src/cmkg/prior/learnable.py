"""Regularizers that unrolled inner steps can learn: a prior's phi, or the parameters of any R."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..distillation.losses import to_scalar
from ..errors import InputError
from .meta_gradient import as_function_of_phi
from .parameters import Tensors
from .penalty import weighted_norm
from .prior import Prior


@runtime_checkable
class Learnable(Protocol):
    """A regularizer R(theta; phi) for the unrolled gradient (Algorithm 1)."""

    def leaves(self, weights: Tensors) -> dict[str, Tensor]:
        """Returns phi as leaf tensors to differentiate; weights is {name: trained weight}."""

    def penalty(self, phi: Tensors, weights: Tensors) -> Tensor:
        """Returns R at phi and {name: weight}, a scalar differentiable in both."""

    def step_(self, gradients: Tensors, beta: float, unit_free: bool) -> None:
        """Takes one SGD step on phi."""


class LearnablePrior:
    """A learnable prior: the weighted norm of Eq. 10."""

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def leaves(self, weights: Tensors) -> dict[str, Tensor]:
        """Returns phi of these weights."""
        return as_function_of_phi(self.prior, weights)[0]

    def penalty(self, phi: Tensors, weights: Tensors) -> Tensor:
        """Returns R of Eq. 10."""
        selected = {name: weights[name] for name in phi}
        return weighted_norm(selected, phi, self.prior.p, self.prior.centre)

    def step_(self, gradients: Tensors, beta: float, unit_free: bool) -> None:
        """Takes one SGD step on phi; see Prior.learn_."""
        self.prior.learn_(gradients, beta, unit_free)


class LearnableModule:
    """A module that maps the student's {name: weight} to a scalar; its parameters are phi.

    Args:
        module: The regularizer R.
        names: The names of the student's weights that it takes.

    Raises:
        InputError: If it is not a module, or has no parameter to learn.
    """

    def __init__(self, module: nn.Module, names: Iterable[str]) -> None:
        if not isinstance(module, nn.Module):
            raise InputError(
                "regulariser: expected a module of {name: weight} to a scalar, got "
                f"{type(module).__name__}"
            )
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise InputError("regulariser: it has no parameter to learn, which phi is")
        self.module = module
        self.names = list(names)

    def leaves(self, _weights: Tensors) -> dict[str, Tensor]:
        """Returns the module's trained parameters themselves."""
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    def penalty(self, _phi: Tensors, weights: Tensors) -> Tensor:
        """Returns the module's value at the student's weights."""
        return to_scalar(
            self.module({name: weights[name] for name in self.names}), "R", needs_graph=False
        )

    @torch.no_grad()
    def step_(self, gradients: Tensors, beta: float, unit_free: bool) -> None:
        """Takes one SGD step on the module's parameters."""
        for name, parameter in self.leaves({}).items():
            gradient = gradients[name]
            if unit_free:
                gradient = gradient / gradient.square().mean().sqrt().clamp_min(1e-30)
            parameter -= beta * gradient
