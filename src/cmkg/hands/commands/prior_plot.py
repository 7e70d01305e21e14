"""`cmkg prior plot`: draws phi per layer (SVG)."""

from __future__ import annotations

from dataclasses import dataclass

from ...prior.prior import Prior
from ...runtime.checks import expect_new_file
from ...runtime.files import write_text
from ...runtime.text import printable


@dataclass(frozen=True)
class PlotPrior:
    """Plot phi per layer (SVG)."""

    file: str
    out: str = "prior.svg"


def run(config: PlotPrior) -> None:
    """Writes the plot of phi per layer as SVG."""
    from ..report.plots import plot_prior_by_layer

    expect_new_file(config.out, ".svg", config.file)
    prior = Prior.load(config.file)
    write_text(config.out, plot_prior_by_layer({f"p = {prior.p}": prior.quantiles()}))
    print(printable(f"{config.out}: phi per layer, median and 10 to 90 %"))


SETTINGS = PlotPrior
