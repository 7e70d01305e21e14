"""`cmkg prior`: what prior files hold, how two differ, several merged, a picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from .. import engine
from ..errors import InputError
from ..families import merged
from ..prior import Prior
from .common import new_file


@dataclass(frozen=True)
class Priors:
    """Stands for the commands below in `cmkg --help`."""


@dataclass(frozen=True)
class Info:
    file: str


@dataclass(frozen=True)
class Compare:
    file: str
    other: str


@dataclass(frozen=True)
class Merge:
    files: tuple[str, ...]
    out: str
    how: Literal["mean", "precision", "sign"] = "mean"


@dataclass(frozen=True)
class Plot:
    file: str
    out: str = "prior.svg"


COMMANDS = {
    "info": (Info, "Where a prior comes from, and phi's quantiles a layer."),
    "compare": (Compare, "Correlation and agreement of signs of two priors, a layer each."),
    "merge": (Merge, "One prior of several, learned from the same initialisation."),
    "plot": (Plot, "phi per layer as a picture (SVG)."),
}


def run(config):
    {Info: info, Compare: compare, Merge: merge, Plot: plot}[type(config)](config)


def info(config):
    from ..hub import prior_facts

    prior = Prior.load(config.file)
    for key, value in prior_facts(prior).items():
        if value not in (None, ""):
            print(f"{key:14} {value}")
    noise = prior.signal_to_noise() if prior.variance else {}
    print(
        f"\n{'layer':44}{'10 %':>11}{'median':>11}{'90 %':>11}"
        + (f"{'phi / noise':>13}" if noise else "")
    )
    for name, q in prior.quantiles().items():
        print(
            f"{name:44}{q['q10']:11.2e}{q['median']:11.2e}{q['q90']:11.2e}"
            + (f"{noise[name]:13.1f}" if noise else "")
        )


def compare(config):
    a, b = Prior.load(config.file), Prior.load(config.other)
    shared = [n for n in a.phi if n in b.phi and a.phi[n].shape == b.phi[n].shape]
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
    print(f"{'layer':44}{'correlation':>13}{'same sign':>11}{'rms ratio':>11}")
    for name in [*shared, "all"]:
        x, y = (
            torch.cat([q.phi[n].flatten().double() for n in (shared if name == "all" else [name])])
            for q in (a, b)
        )
        same_sign = float((x.sign() == y.sign()).double().mean())
        ratio = float((y.square().mean() / x.square().mean().clamp_min(1e-60)).sqrt())
        print(f"{name:44}{correlation(x, y):13.3f}{same_sign:11.1%}{ratio:11.3g}")


def correlation(x, y):
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x.norm() * y.norm()).clamp_min(1e-60))


def merge(config):
    if len(config.files) < 2:
        raise InputError(f"--files: expected at least two priors, got {len(config.files)}")
    if len({Path(f).resolve() for f in config.files}) < len(config.files):
        raise InputError("--files: the same prior is there twice; expected different ones")
    new_file(config.out, ".safetensors", *config.files)
    whole = merged([Prior.load(f) for f in config.files], config.how)
    whole.save(config.out)
    print(
        f"{config.out}: {len(config.files)} priors merged by {config.how}, rms of phi "
        f"{whole.rms():.3g}"
    )


def plot(config):
    from ..report import plots

    new_file(config.out, ".svg", config.file)
    prior = Prior.load(config.file)
    figure = plots.prior_by_layer({f"p = {prior.p}": prior.quantiles()})
    engine.write_atomically(config.out, lambda p: p.write_text(figure, encoding="utf-8"))
    print(f"{config.out}: phi per layer, median and 10 to 90 %")
