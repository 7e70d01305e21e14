"""Builds priors in other ways: from Fisher information, or by merging several priors.

Each function returns a prior.Prior. See also Prior.from_checkpoints for two checkpoints, and
Prior.constant with a centre for L2-SP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..batch import TARGET_FIELDS, Batch, Fields, labelled_only
from ..containers import count_samples, cut
from ..distillation.losses import to_scalar
from ..errors import InputError
from ..modules import call_model, named_weights, preserve_modes, unwrap
from .parameters import Select, fingerprint, select_parameters
from .prior import Prior


def fisher(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Callable[[Any, Any], Tensor],
    select: Select = "weights",
    fields: Fields | None = None,
    device: torch.device | str = "cpu",
) -> Prior:
    """Returns the diagonal empirical Fisher information at the model's weights, centered there.

    As in EWC (Kirkpatrick et al., 2017), phi_i = mean over samples of (d loss / d theta_i)^2 / 2,
    so that R is the Laplace penalty. Gradients are taken per sample and in eval mode, because
    BatchNorm's batch statistics would mix samples.

    Args:
        model: The network.
        batches: Batches of samples.
        loss: Maps (prediction, target) of a batch to a scalar.
        select: Which parameters carry phi; see Prior.constant.
        fields: Which part of a batch is which; None means a batch (x, y).
        device: Where the samples go.

    Raises:
        InputError: If there is no sample.
    """
    model = unwrap(model)
    parameters = {n: t.detach() for n, t in select_parameters(model, select).items()}

    total = {
        name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in parameters.items()
    }
    count = 0
    with preserve_modes(model):
        model.eval()
        for batch in batches:
            part: Batch | None = (fields or TARGET_FIELDS)(batch, device)
            if part is not None and part.labelled is not None:
                part = labelled_only(part)
            if part is None:
                continue
            x, y = part.student_input, part.target
            for name, squares in squared_gradients(model, parameters, loss, x, y).items():
                total[name] += squares
            count += count_samples(x)
    if count == 0:
        raise InputError(
            "the Fisher information needs samples: expected batches, got none that has a label"
        )
    phi = {name: (squares / (2 * count)).float() for name, squares in total.items()}
    facts = {
        "family": "Fisher",
        "select": select if isinstance(select, str) else "a function",
        "granularity": "weight",
        "weights": {name: phi[name].numel() for name in phi},
        "samples": count,
        "fingerprint": fingerprint(model),
        "architecture": type(model).__name__,
    }
    return Prior(phi, 2, {name: weight.clone() for name, weight in parameters.items()}, facts)


def squared_gradients(
    model: nn.Module, weights: dict[str, Tensor], loss: Callable[[Any, Any], Any], x: Any, y: Any
) -> dict[str, Tensor]:
    """Returns {name: sum over samples of the squared gradient of each sample's loss}.

    It uses torch.vmap over all samples if x and y are tensors and the network supports it;
    otherwise it loops over samples (recurrent layers, dicts, lists).
    """
    others = {name: weight.detach() for name, weight in model.named_parameters()}

    def loss_of_one(held: dict[str, Tensor], x_one: Tensor, y_one: Tensor) -> Tensor:
        prediction = functional_call(model, others | held, (x_one[None],))
        return to_scalar(loss(prediction, y_one[None]), needs_graph=False)

    if isinstance(x, Tensor) and isinstance(y, Tensor):
        try:
            each = vmap(grad(loss_of_one), in_dims=(None, 0, 0))(weights, x, y)
        except RuntimeError:  # an operation that torch.vmap does not support
            pass
        else:
            return {name: gradients.float().square().sum(0) for name, gradients in each.items()}
    named = named_weights(model)
    total = {name: torch.zeros_like(w, dtype=torch.float32) for name, w in weights.items()}
    count = count_samples(x)
    for number in range(count):
        sample = slice(number, number + 1)
        value = to_scalar(loss(call_model(model, cut(x, sample, count)), cut(y, sample, count)))
        tensors = [named[name] for name in weights]
        sample_gradients = torch.autograd.grad(value, tensors, allow_unused=True)
        for name, gradient in zip(weights, sample_gradients, strict=True):
            if gradient is not None:
                total[name] += gradient.float().square()
    return total


# ---- several sources -----------------------------------------------------------------------------
def _mean(phis: Sequence[Tensor], _variances: Sequence[Tensor] | None) -> Tensor:
    return torch.stack(list(phis)).sum(0) / len(phis)


def _precision(phis: Sequence[Tensor], variances: Sequence[Tensor] | None) -> Tensor:
    assert variances is not None
    weights = [1 / variance.clamp_min(1e-30) for variance in variances]
    total = sum(weight * phi for weight, phi in zip(weights, phis, strict=True))
    return torch.as_tensor(total / sum(weights))


def _sign(phis: Sequence[Tensor], _variances: Sequence[Tensor] | None) -> Tensor:
    """Averages the values whose sign agrees with that of the sum.

    See TIES-merging, Yadav et al., 2023, Sec. 3.
    """
    stacked = torch.stack(list(phis))
    agree = torch.sign(stacked) == torch.sign(stacked.sum(0))
    return (stacked * agree).sum(0) / agree.sum(0).clamp_min(1)


MERGES = {"mean": _mean, "precision": _precision, "sign": _sign}


def merged(priors: Sequence[Prior], how: str = "mean") -> Prior:
    """Merges priors that were learned from the same theta_0 on different sources.

    Args:
        priors: At least one prior.
        how: "mean"; "precision", which weights each phi_i by its inverse variance (see
            Prior.track_noise); or "sign", the mean of the values with the majority's sign.

    Raises:
        InputError: If `how` is unknown, the priors do not match, or a variance is missing.
    """
    if not priors:
        raise InputError("merged: expected at least one prior, got none")
    first = priors[0]
    if how not in MERGES:
        raise InputError(f"priors are merged by {', '.join(MERGES)}, got {how!r}")
    for other in priors[1:]:
        _expect_same_kind(first, other)
    variances = [prior.variance for prior in priors]
    if how == "precision" and any(variance is None for variance in variances):
        raise InputError(
            "merging by precision needs each prior's variance: learn them with track_noise(), or "
            "merge by mean or sign"
        )
    phi = {}
    for name in first.phi:
        spread = [variance[name] for variance in variances if variance is not None]
        phi[name] = MERGES[how]([prior.phi[name] for prior in priors], spread)
    sources = [prior.manifest.get("source") for prior in priors]
    return Prior(phi, first.p, first.centre, first.manifest | {"merged": how, "sources": sources})


def _expect_same_kind(a: Prior, b: Prior) -> None:
    if a.p != b.p:
        raise InputError(f"priors of p = {a.p} and p = {b.p} cannot be merged: expected one p")
    differing = [
        name
        for name in {**a.phi, **b.phi}
        if name not in a.phi or name not in b.phi or a.phi[name].shape != b.phi[name].shape
    ]
    if differing:
        raise InputError(
            f"these priors belong to different networks, they differ at {differing[0]!r}: expected "
            "the same names and shapes"
        )
    if not _same_centre(a.centre, b.centre):
        raise InputError("these priors are centred at different weights: expected one centre")
    if a.manifest.get("fingerprint") != b.manifest.get("fingerprint"):
        raise InputError(
            "these priors were learned from different initialisations: their weights do not "
            "correspond; learn them from one theta_0"
        )


def _same_centre(a: Mapping[str, Tensor] | None, b: Mapping[str, Tensor] | None) -> bool:
    if a is None or b is None:
        return a is b
    return all(torch.equal(centre, b[name]) for name, centre in a.items())
