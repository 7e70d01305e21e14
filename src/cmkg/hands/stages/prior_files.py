"""`cmkg prior`: what prior files hold, how two differ, several merged, a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...cards import prior_facts
from ...errors import InputError
from ...families import merged
from ...prior import Prior
from ...runtime.checks import expect_new_file
from ...runtime.files import write_text
from ...runtime.text import printable


@dataclass(frozen=True)
class Info:
    """Where a prior comes from, and phi's quantiles a layer."""

    file: str


@dataclass(frozen=True)
class Compare:
    """Correlation and agreement of signs of two priors, a layer each."""

    file: str
    other: str


@dataclass(frozen=True)
class Merge:
    """One prior of several, learned from the same initialisation."""

    files: tuple[str, ...]
    out: str
    how: Literal["mean", "precision", "sign"] = "mean"


@dataclass(frozen=True)
class Plot:
    """phi per layer as a picture (SVG)."""

    file: str
    out: str = "prior.svg"


def run(config: Info | Compare | Merge | Plot) -> None:
    """Does what the settings ask for."""
    if isinstance(config, Info):
        print_info(config)
    elif isinstance(config, Compare):
        print_comparison(config)
    elif isinstance(config, Merge):
        write_merged(config)
    else:
        write_plot(config)


def print_info(config: Info) -> None:
    """Prints a prior's facts and quantiles."""
    prior = Prior.load(config.file)
    for name, value in prior_facts(prior).items():
        if value not in (None, ""):
            print(printable(f"{name:14} {value}"))
    noise = prior.signal_to_noise() if prior.variance else {}
    last = f"{'phi / noise':>13}" if noise else ""
    print(printable(f"\n{'layer':44}{'10 %':>11}{'median':>11}{'90 %':>11}{last}"))
    for name, q in prior.quantiles().items():
        last = f"{noise[name]:13.1f}" if noise else ""
        print(printable(f"{name:44}{q['q10']:11.2e}{q['median']:11.2e}{q['q90']:11.2e}{last}"))


def print_comparison(config: Compare) -> None:
    """Prints how alike two priors are."""
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
    """Pearson's; 0 where one does not vary."""
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x.norm() * y.norm()).clamp_min(1e-60))


def write_merged(config: Merge) -> None:
    """Writes one prior of several."""
    if len(config.files) < 2:
        raise InputError(f"--files: expected at least two priors, got {len(config.files)}")
    if len({Path(file).resolve() for file in config.files}) < len(config.files):
        raise InputError("--files: the same prior is there twice; expected different ones")
    expect_new_file(config.out, ".safetensors", *config.files)
    whole = merged([Prior.load(file) for file in config.files], config.how)
    whole.save(config.out)
    print(
        f"{config.out}: {len(config.files)} priors merged by {config.how}, rms of phi "
        f"{whole.rms():.3g}"
    )


def write_plot(config: Plot) -> None:
    """Writes phi per layer as SVG."""
    from ..report.plots import plot_prior_by_layer

    expect_new_file(config.out, ".svg", config.file)
    prior = Prior.load(config.file)
    write_text(config.out, plot_prior_by_layer({f"p = {prior.p}": prior.quantiles()}))
    print(printable(f"{config.out}: phi per layer, median and 10 to 90 %"))
