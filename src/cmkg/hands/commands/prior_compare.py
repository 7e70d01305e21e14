"""`cmkg prior compare`: correlation and sign agreement of two priors, per layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import InputError
from ...prior.prior import Prior
from ...runtime.text import printable


@dataclass(frozen=True)
class ComparePriors:
    """Print the correlation and sign agreement of two priors, per layer."""

    file: str
    other: str


def run(config: ComparePriors) -> None:
    """Prints how similar two priors are."""
    a, b = Prior.load(config.file), Prior.load(config.other)
    shared = [name for name in a.phi if name in b.phi and a.phi[name].shape == b.phi[name].shape]
    if not shared:
        raise InputError(
            f"{config.file} and {config.other} have no layer of the same name and shape: they "
            "belong to different networks"
        )
    if a.manifest.get("fingerprint") != b.manifest.get("fingerprint"):
        print("learned from different initialisations: weights of the same name do not correspond")
    if apart := sorted((a.phi.keys() | b.phi.keys()) - set(shared)):
        print(
            "not compared, as one of the two has no such layer or another shape: "
            f"{len(apart)}, e.g. {apart[0]}"
        )
    print(printable(f"{'layer':44}{'correlation':>13}{'same sign':>11}{'rms ratio':>11}"))
    for title in [*shared, "all"]:
        names = shared if title == "all" else [title]
        x, y = (torch.cat([p.phi[n].flatten().double() for n in names]) for p in (a, b))
        same_sign = float((x.sign() == y.sign()).double().mean())
        ratio = float((y.square().mean() / x.square().mean().clamp_min(1e-60)).sqrt())
        print(printable(f"{title:44}{correlation(x, y):13.3f}{same_sign:11.1%}{ratio:11.3g}"))


def correlation(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> float:
    """Pearson's correlation; 0 if either vector is constant."""
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x.norm() * y.norm()).clamp_min(1e-60))


SETTINGS = ComparePriors
