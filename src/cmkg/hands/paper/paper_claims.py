"""Claims of the paper's text about its tables, computed from the paper's numbers and from ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import InputError
from ...runtime.run_records import AGAIN
from ..report.collect import Facts
from .presets import TARGETS


class Comparison(NamedTuple):
    """Two rows of a table; the paper claims that the first has the lower error."""

    label: str
    better: str
    reference: str


# In the order of decreasing errors in the tables.
COMPARISONS = {
    "table1": [
        Comparison("ResNet-18: L_ACT against RGB", "r18/act", "r18/continued"),
        Comparison("ResNet-18: L_ATT beside L_ACT", "r18/act-att", "r18/act"),
        Comparison("ResNet-18: distilled against RGB", "r18/act-att", "r18/continued"),
        Comparison("𝒜 beside RHD, distilled", "r18-a/act-att", "r18/act-att"),
        Comparison("ResNet-18 with 𝒜: distilled against RGB", "r18-a/act-att", "r18-a/continued"),
        Comparison("deeper, distilled", "r50-a/act-att", "r18-a/act-att"),
        Comparison("ResNet-50 with 𝒜: distilled against RGB", "r50-a/act-att", "r50-a/continued"),
    ],
    "table2": [
        Comparison("STB: ℓ¹, σ = 1e-4, against none", "stb/l1-1e-4", "stb/none"),
        Comparison("STB: ℓ², σ = 1e-5, against none", "stb/l2-1e-5", "stb/none"),
        Comparison("STB: prior, p = 1, against ℓ¹", "stb/prior-l1", "stb/l1-1e-4"),
        Comparison("STB: prior, p = 2, against ℓ²", "stb/prior-l2", "stb/l2-1e-5"),
        Comparison("STB: prior, p = 2, against p = 1", "stb/prior-l2", "stb/prior-l1"),
        Comparison("STB: prior, p = 2, against none", "stb/prior-l2", "stb/none"),
    ],
    "table3": [
        claim
        for data in TARGETS
        if data != "stb"  # STB is in Table 2
        for claim in (
            Comparison(f"{data}: ℓ² against none", f"{data}/l2-1e-5", f"{data}/none"),
            Comparison(f"{data}: prior against ℓ²", f"{data}/prior-l2", f"{data}/l2-1e-5"),
        )
    ],
}
PRESETS = ("table1", "table2", "table3", "figure4", "figure5", "figure6")
CORRELATION = "Table 3: correlation over its rows of what ℓ² gains and what the prior gains (§5.5)"
HOLDS, REVERSED, UNDECIDED = "holds", "the other way round", "undecided"
ONE_SEED, NOT_RUN = "one seed", "not run"


def expect_rows(presets: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Refuses a plan that lacks a preset, a compared row, or the paper's number for one.

    Raises:
        InputError: the message names what is missing.
    """
    for preset in PRESETS:
        if preset not in presets:
            raise InputError(f"{path}: has no {preset!r}; {AGAIN}")
    for preset, comparisons in COMPARISONS.items():
        for comparison in comparisons:
            for stage in (comparison.better, comparison.reference):
                if not (presets[preset].get(stage) or ("", None, None))[1]:
                    raise InputError(
                        f"{path}: {preset!r} has no row {stage!r} with the paper's error; {AGAIN}"
                    )


def collect_claims(presets: Mapping[str, list[Facts]]) -> list[Facts]:
    """[{"claim", "unit", "paper", "ours", "verdict"}] of all comparisons, and §5.5's correlation.

    A gain is the change of the error relative to the reference row in percent; a decrease is
    negative. "paper" is a number. "ours" is None if no seed has both rows, otherwise {"mean",
    "low", "high", "seeds"} over the seeds that have both, each relative to its own reference.
    """
    claims = []
    for preset, comparisons in COMPARISONS.items():
        rows = {row["stage"]: row for row in presets[preset]}
        for label, better, reference in comparisons:
            pair = rows[better], rows[reference]
            paper = 100 * (pair[0]["paper_epe_mm"] / pair[1]["paper_epe_mm"] - 1)
            errors = errors_by_seed(pair)
            gains = 100 * (errors[0] / errors[1] - 1)
            claims.append(_claim(label, "%", paper, gains))
    rows = {row["stage"]: row for row in presets["table3"]}
    return [*claims, _correlation_claim(rows)]


def _claim(label: str, unit: str, paper: float, ours: np.ndarray) -> Facts:
    """One claim; `ours` has one value per seed."""
    claim: Facts = {"claim": label, "unit": unit, "paper": paper, "ours": None, "verdict": NOT_RUN}
    if len(ours):
        low, high = float(ours.min()), float(ours.max())
        claim["ours"] = {"mean": float(ours.mean()), "low": low, "high": high, "seeds": len(ours)}
        claim["verdict"] = _verdict(ours * np.sign(paper))
    return claim


def _verdict(towards_the_paper: np.ndarray) -> str:
    """Whether all seeds agree; values in the paper's direction are positive."""
    if len(towards_the_paper) == 1:
        return ONE_SEED
    if (towards_the_paper > 0).all():
        return HOLDS
    return REVERSED if (towards_the_paper < 0).all() else UNDECIDED


def _correlation_claim(rows: Mapping[str, Facts]) -> Facts:
    """The correlation over the domains of the gains of l2 and of the prior over none, in mm."""
    names = ("none", "l2-1e-5", "prior-l2")
    of_domains = [[rows[f"{data}/{name}"] for name in names] for data in TARGETS]
    paper = np.array([[row["paper_epe_mm"] for row in domain] for domain in of_domains])
    every = [row for domain in of_domains for row in domain]
    ours = errors_by_seed(every).reshape(len(TARGETS), len(names), -1)
    by_seed = [correlate_gains(ours[:, :, seed]) for seed in range(ours.shape[2])]
    claim = _claim(CORRELATION, "", correlate_gains(paper), np.array(by_seed))
    # Both gains share the reference row without R, whose noise alone makes them correlate.
    return claim | {"verdict": "" if len(by_seed) else NOT_RUN}


def correlate_gains(errors: np.ndarray) -> float:
    """Pearson's correlation of two gains.

    Args:
        errors: (targets, 3) in mm: without a regularizer, with l2, with the prior.
    """
    none, l2, prior = errors.T
    return float(np.corrcoef(none - l2, none - prior)[0, 1])


def errors_by_seed(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(rows, seeds) EPEs in mm over the seeds that all of the rows have."""
    by_row: list[dict[str, float]] = []
    for row in rows:
        ours = row["ours"] or {"seeds": [], "epe_mm": {"values": []}}
        by_row.append(dict(zip(ours["seeds"], ours["epe_mm"]["values"], strict=True)))
    shared = [seed for seed in by_row[0] if all(seed in errors for errors in by_row)]
    return np.array([[errors[seed] for seed in shared] for errors in by_row]).reshape(len(rows), -1)


def format_gain(value: float, unit: str) -> str:
    """Formats a gain as "−10.1 %" or "0.999"."""
    text = f"{value:+.1f} %" if unit else f"{value:.3f}"
    return text.replace("-", "−")


def format_ours(claim: Mapping[str, Any]) -> str:
    """Formats as "−7.8 % [−9.1, −6.0]", with the lowest and the highest seed, or "not run"."""
    ours = claim["ours"]
    if ours is None:
        return NOT_RUN
    mean = format_gain(ours["mean"], claim["unit"])
    if ours["seeds"] == 1:
        return mean
    digits = 1 if claim["unit"] else 2
    interval = f"[{ours['low']:+.{digits}f}, {ours['high']:+.{digits}f}]".replace("-", "−")
    return f"{mean} {interval}"


def format_claims(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """The claims as the lines of a Markdown table."""
    lines = ["| against | the paper | ours | |", "| :-- | --: | --: | :-- |"]
    for claim in claims:
        paper = format_gain(claim["paper"], claim["unit"])
        lines.append(f"| {claim['claim']} | {paper} | {format_ours(claim)} | {claim['verdict']} |")
    return lines
