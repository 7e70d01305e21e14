"""`cmkg prior info`: prints the origin of a prior, and quantiles of phi per layer."""

from __future__ import annotations

from dataclasses import dataclass

from ...prior.card import prior_facts
from ...prior.prior import Prior
from ...runtime.text import printable


@dataclass(frozen=True)
class PriorInfo:
    """Print the origin of a prior, and the quantiles of phi per layer."""

    file: str


def run(config: PriorInfo) -> None:
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


SETTINGS = PriorInfo
