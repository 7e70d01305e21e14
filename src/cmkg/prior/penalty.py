"""R(theta; phi) of Eq. 10: binds phi to weights, and computes R's value, slope and update.

The functions take any object with an exponent, phi and a centre, such as prior.Prior.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..modules import as_weights, unwrap, without_prefix
from .parameters import GRANULARITIES, Tensors, tied_shape


@runtime_checkable
class HasPhi(Protocol):
    """The attributes of a prior that R needs."""

    p: int
    phi: dict[str, Tensor]
    centre: dict[str, Tensor] | None
    manifest: dict[str, Any]


class DeviceCopies:
    """Copies of phi and its center on the weights' device, renewed when the originals change.

    The prior itself stays on its own device.
    """

    def __init__(self) -> None:
        self._copies: dict[tuple[str, str], tuple[Tensor, int, Tensor]] = {}

    def get(self, part: str, name: str, original: Tensor, like: Tensor) -> Tensor:
        """Returns the tensor on the device of `like`; the original if it is already there."""
        if original.device == like.device:
            return original
        key = part, name
        known = self._copies.get(key)
        if known is not None:
            source, version, copied = known
            if source is original and version == original._version and copied.device == like.device:
                return copied
        copied = original.to(like.device)
        self._copies[key] = original, original._version, copied
        return copied


def weighted_norm(weights: Tensors, phi: Tensors, p: int, centre: Tensors | None) -> Tensor:
    """Returns R of Eq. 10, a scalar differentiable in the weights, and in phi if it has a graph."""
    terms = []
    for name, weight in weights.items():
        offset = weight if centre is None else weight - centre[name].to(weight)
        size = offset.abs()
        terms.append((phi[name].to(weight.device) * (size if p == 1 else size * size)).sum())
    return sum(terms[1:], terms[0]) if terms else torch.zeros(())


def slope_of(
    prior: HasPhi, weights: Tensors, copies: DeviceCopies | None = None
) -> dict[str, Tensor]:
    """Returns dR/dtheta without phi for {name: weight}: 2 (theta - theta*), or a sign for p = 1."""
    offsets = _offsets(prior, weights, copies or DeviceCopies())
    if prior.p == 2:
        slopes = list(torch._foreach_mul(offsets, 2.0))
    else:
        slopes = [torch.sgn(offset) for offset in offsets]
    return dict(zip(weights, slopes, strict=True))


def _offsets(prior: HasPhi, weights: Tensors, copies: DeviceCopies) -> list[Tensor]:
    detached = [weight.detach() for weight in weights.values()]
    if prior.centre is None or not detached:
        return detached
    around = []
    for name, weight in weights.items():
        centre = copies.get("centre", name, prior.centre[name], weight)
        around.append(centre.to(weight.dtype))
    return list(torch._foreach_sub(detached, around))


@torch.no_grad()
def pull_(
    prior: HasPhi,
    into: list[Tensor],
    weights: Tensors,
    factor: float,
    copies: DeviceCopies | None = None,
) -> None:
    """Computes into <- into + factor phi dR/dtheta in place, one tensor per {name: weight}.

    For p = 2, where the slope is twice the offset, this takes one pass over memory.

    Args:
        prior: The prior phi.
        into: Gradients, with factor 1, if coupled (the paper's F); weights, with factor -lr, if
            decoupled (Eq. 16).
        weights: {name: weight}, in the order of `into`.
        factor: See `into`.
        copies: Copies of phi on the weights' device.
    """
    if not weights:
        return
    copies = copies or DeviceCopies()
    phi = [copies.get("phi", name, prior.phi[name], weight) for name, weight in weights.items()]
    if prior.p == 2:
        torch._foreach_addcmul_(into, _offsets(prior, weights, copies), phi, value=2 * factor)
    else:
        slopes = list(slope_of(prior, weights, copies).values())
        torch._foreach_addcmul_(into, slopes, phi, value=factor)


# ---- which weights -------------------------------------------------------------------------------
def bind(prior: HasPhi, model: nn.Module | Tensors, prefix: str = "") -> dict[str, Tensor]:
    """Returns {name: weight} of the model's weights that phi belongs to, in phi's order.

    Args:
        prior: The prior phi.
        model: A network, wrapped or not, or {name: tensor}.
        prefix: A prefix that the model's names have and phi's lack, such as "backbone.".

    Raises:
        InputError: If the architecture differs; the message names the parameter.
    """
    weights = as_weights(model)
    if not isinstance(model, nn.Module) and not all(prefix + n in weights for n in prior.phi):
        weights = without_prefix(weights)
    bound: dict[str, Tensor] = {}
    names: dict[int, str] = {}
    for name in prior.phi:
        whole = prefix + name
        if whole not in weights:
            other = type(unwrap(model)).__name__ if isinstance(model, nn.Module) else "this"
            raise InputError(
                f"this prior belongs to another network: it has {name!r}, {other} has not"
                f"{_where_else(name, weights)}"
            )
        bound[name] = weights[whole]
        if names.setdefault(id(weights[whole]), name) != name:
            raise InputError(
                f"{names[id(weights[whole])]!r} and {name!r} are one weight in the model, phi "
                "has both: leave one out, otherwise it would be held twice"
            )
    _expect_shapes(prior, bound)
    return bound


def _expect_shapes(prior: HasPhi, weights: Tensors) -> None:
    """Refuses weights whose shapes phi does not match at a single granularity."""
    stated = prior.manifest.get("granularity")
    kinds = [kind for kind in GRANULARITIES if stated in (kind, None)]
    for name, phi in prior.phi.items():
        shape = tuple(weights[name].shape)
        kinds = [kind for kind in kinds if tied_shape(shape, kind) == tuple(phi.shape)]
        if not kinds:
            raise InputError(
                f"this prior belongs to another network: {name!r} is {tuple(phi.shape)} in the "
                f"prior, {shape} in the model; expected that shape, or "
                f"{tied_shape(shape, 'filter')} a filter or {tied_shape(shape, 'layer')} a "
                "layer, the same for every parameter"
            )
        if prior.centre is not None and tuple(prior.centre[name].shape) != shape:
            raise InputError(
                f"this prior's centre belongs to another network: {name!r} is "
                f"{tuple(prior.centre[name].shape)} there, {shape} in the model"
            )


def _where_else(name: str, weights: Mapping[str, Tensor]) -> str:
    """Returns a hint if the model has the name behind a prefix."""
    for other in weights:
        if other.endswith(f".{name}"):
            return f" (it has {other!r}: give prefix={other.removesuffix(name)!r})"
    return ""
