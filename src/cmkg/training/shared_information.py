"""Estimates the mutual information of two views of the same samples."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def standardise_columns(a: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Scales columns to zero mean and unit variance."""
    return (a - a.mean(0)) / a.std(0, correction=0).clamp_min(1e-6)


def shared_information(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "n e"],
    k: int = 8,
    ridge: float = 0.1,
    folds: int = 4,
) -> float:
    """Estimates I(a; b) of paired rows in nats, assuming Gaussians, over k canonical directions.

    The directions are fitted on some rows and their correlations measured on the others, so that
    independent rows give about 0 even for few samples, unlike a plain canonical correlation.

    >>> import torch
    >>> x, noise = torch.randn(2, 4000, 1, generator=torch.Generator().manual_seed(0))
    >>> round(shared_information(x, x + 0.75 * noise), 1)
    0.5
    """
    a, b = (
        principal(standardise_columns(a.double()), k),
        principal(standardise_columns(b.double()), k),
    )
    total = 0.0
    for fold in range(folds):
        is_held_out = torch.arange(len(a)) % folds == fold
        total += _information_of(
            a[~is_held_out], b[~is_held_out], a[is_held_out], b[is_held_out], ridge
        )
    return total / folds


def principal(a: Float[Tensor, "n d"], k: int) -> Float[Tensor, "n k2"]:
    """Projects rows on their first k principal components, each scaled to unit variance."""
    U, S, _ = torch.linalg.svd(a - a.mean(0), full_matrices=False)
    keep = min(k, int((1e-6 * S[0] < S).sum()))
    return U[:, :keep] * len(a) ** 0.5


def _information_of(a: Tensor, b: Tensor, a_new: Tensor, b_new: Tensor, ridge: float) -> float:
    whiten_a, whiten_b = _whitening(a, ridge), _whitening(b, ridge)
    U, _, Vt = torch.linalg.svd(whiten_a.T @ a.T @ b @ whiten_b / len(a))
    n = min(len(U), len(Vt))
    left = a_new @ whiten_a @ U[:, :n]
    right = b_new @ whiten_b @ Vt.T[:, :n]
    correlation = (standardise_columns(left) * standardise_columns(right)).mean(0).clamp(0, 0.999)
    return float(-0.5 * (1 - correlation**2).log().sum())


def _whitening(a: Tensor, ridge: float) -> Tensor:
    covariance = a.T @ a / len(a) + ridge * torch.eye(a.shape[1], dtype=a.dtype)
    return torch.linalg.inv(torch.linalg.cholesky(covariance)).T
