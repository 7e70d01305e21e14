"""Computes phi from the weights of two checkpoints."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..modules import as_weights, named_weights, without_prefix
from .parameters import Tensors, is_statistic, is_weight


def telescoped_phi(
    theta_0: nn.Module | Tensors, theta_k: nn.Module | Tensors, beta: float
) -> dict[str, Tensor]:
    """Returns {name: -beta (theta_K^2 - theta_0^2)} for the weights of two checkpoints.

    See is_weight for what counts as a weight. If either is a network, only its parameters count,
    not its buffers. For two state_dicts, only tensors that changed count, without running
    statistics.

    Raises:
        InputError: If names or shapes differ, or no weight has changed.
    """
    before, after = without_prefix(as_weights(theta_0)), without_prefix(as_weights(theta_k))
    networks = [weights for weights in (theta_0, theta_k) if isinstance(weights, nn.Module)]
    parameters = [named_weights(network) for network in networks]
    if not math.isfinite(beta):
        raise InputError(f"beta: expected a finite number, got {beta}")
    phi = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, end in after.items():
        place = end.data_ptr(), tuple(end.shape)
        if not end.is_floating_point() or place in seen or not is_weight(name, end):
            continue
        if any(name not in known for known in parameters) or is_statistic(name):
            continue
        seen.add(place)  # a shared weight has one phi, under its first name
        if name not in before or before[name].shape != end.shape:
            earlier = tuple(before[name].shape) if name in before else "none"
            raise InputError(
                f"{name!r} is {tuple(end.shape)} in the later checkpoint and {earlier} in the "
                "earlier one: expected two of one network"
            )
        if not networks and torch.equal(end, before[name].to(end)):
            continue  # a constant buffer, or frozen
        squares = end.detach().float() ** 2 - before[name].detach().float() ** 2
        phi[name] = -beta * squares
    if not phi:
        raise InputError("from_checkpoints: no weight differs between the two checkpoints")
    return phi
