"""The studies' tables: every row beside references, paired by seed, with bootstrap intervals.

    python -m studies.tables --out runs/graded

writes the tables of a study's folder anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from cmkg.cli import end_in_one_sentence
from cmkg.errors import InputError
from cmkg.hands.report.collect import (
    collect_row,
    format_spread,
    format_strength,
    hide_folders,
)
from cmkg.runtime.files import read_json, write_json, write_text

from .chart import draw_errors

REFERENCES = {"l2": "tuned ℓ²", "fine-tune-distilled": "fine-tuning"}
# Where a study's rows are the ingredients of the best one.
PLAIN = {"fine-tune-student": "plain fine-tuning"}
BULKY = ("weights", "pck", "per_joint_mm")
KEPT = ("target", "epochs", "seeds", "tries", "base")
DRAWS, LEVEL = 10_000, 0.95

Facts = dict[str, Any]


def interval(values: Sequence[float], draws: int = DRAWS, level: float = LEVEL) -> np.ndarray:
    """Percentile bootstrap of the mean: (low, high). With few seeds it is rough, and too narrow.

    >>> low, high = interval([1.0, 1.0, 1.0])
    >>> (float(low), float(high))
    (1.0, 1.0)
    """
    if len(values) == 1:
        return np.array([values[0], values[0]])
    drawn = bootstrap(
        (np.asarray(values),),
        np.mean,
        n_resamples=draws,
        confidence_level=level,
        method="percentile",
        rng=0,
    )
    return np.array(drawn.confidence_interval)


def describe_sessions(out: Path) -> Facts:
    """Commits, commands and machine of the sessions that wrote a folder.

    Of the user's own folders the last part only.
    """
    sessions = read_json(out / "environment.json")["sessions"]
    hide_folders(read_json(out / "config.json"), sessions)

    def every(key: str) -> list[str]:
        return list(dict.fromkeys(session[key] for session in sessions))

    machine = sessions[-1]["machine"]
    return {"commits": every("commit"), "commands": every("command"), "machine": machine}


def collect_study(out: Path) -> Facts:
    """The rows of a study's folder."""
    out = Path(out)
    plan = read_json(out / "study_rows.json")
    diverged, rows = [], []
    for row in plan["rows"]:
        if (out / "target" / row["name"] / "diverged.json").exists():
            diverged.append(row)
        else:
            rows.append(collect_row(Path(row.get("home", out)), row))
    errors = {row["name"]: np.array(row["epe_mm"]["values"]) for row in rows}
    for row in rows:
        row["against"] = {
            reference: difference(errors[row["name"]], errors[reference])
            for reference in references_of(list(errors))
            if reference in errors and reference != row["name"]
        }
        for key in BULKY:
            row.pop(key)
    return {"rows": rows, "diverged": diverged} | {key: plan[key] for key in KEPT}


def references_of(names: Sequence[str]) -> dict[str, str]:
    """{name: what the column is called}: the rows that all others are compared with."""
    return REFERENCES if "l2" in names else PLAIN


def difference(values: np.ndarray, reference: np.ndarray) -> Facts:
    """Row minus reference, paired by seed, in mm; below zero is better than the reference."""
    paired = values - reference
    return {
        "mean": float(paired.mean()),
        "share": float(paired.mean() / reference.mean()),
        "interval": [float(end) for end in interval(paired)],
    }


def format_difference(difference: Mapping[str, Any] | None) -> str:
    """As "-1.25 [-1.32, -1.20], -5%", or nothing."""
    if difference is None:
        return ""
    low, high = difference["interval"]
    share = f", {difference['share']:+.0%}" if "share" in difference else ""
    return f"{difference['mean']:+.2f} [{low:+.2f}, {high:+.2f}]{share}"


def format_study(found: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    compared = references_of([row["name"] for row in found["rows"]])
    against = " | ".join(f"against {label}" for label in compared.values())
    columns = " --: |" * len(compared)
    lines = [
        f"| row, {found['target']} | EPE, mm | σ | {against} |",
        f"| :-- | --: | --: |{columns}",
    ]
    for row in found["rows"]:
        cells = [format_difference(row["against"].get(reference)) for reference in compared]
        error, sigma = format_spread(row["epe_mm"]), format_strength(row)
        lines.append(f"| {row['label']} | {error} | {sigma} | {' | '.join(cells)} |")
    empty = " |" * len(compared)
    for row in found["diverged"]:
        lines.append(f"| {row['label']} | diverged at every strength | |{empty}")
    return "\n".join(lines) + "\n"


def draw_study(studies: Sequence[Mapping[str, Any]]) -> str:
    """The rows' errors as SVG, a panel each of `studies` (what `collect_study` returns)."""
    names = [row["name"] for row in studies[0]["rows"]]
    return draw_errors(studies, list(references_of(names)))


def write_study(out: Path) -> Facts:
    """Writes study.json, study.md and study.svg into a study's folder.

    Returns what the first holds.
    """
    out = Path(out)
    found = collect_study(out) | describe_sessions(out)
    write_text(out / "study.svg", draw_study([found]))
    write_json(out / "study.json", found)
    write_text(out / "study.md", format_study(found))
    return found


# ---- several small studies side by side ----------------------------------------------------------
def format_cells(found: Mapping[str, Any]) -> str:
    """A row a row, a column a small study: EPE in mm over seeds, and the strength chosen."""
    labels: dict[str, str] = {}
    for cell in found["cells"]:
        labels |= {row["name"]: row["label"] for row in [*cell["rows"], *cell["diverged"]]}
    names = [cell["target"] for cell in found["cells"]]
    lines = [f"| EPE, mm | {' | '.join(names)} |", f"| :-- |{' --: |' * len(names)}"]
    for name, label in labels.items():
        cells = " | ".join(format_cell(cell, name) for cell in found["cells"])
        lines.append(f"| {label} | {cells} |")
    return "\n".join(lines) + "\n"


def format_cell(cell: Mapping[str, Any], name: str) -> str:
    """One row of one small study."""
    row = next((row for row in cell["rows"] if row["name"] == name), None)
    if row is None:
        diverged = any(row["name"] == name for row in cell["diverged"])
        return "diverged" if diverged else ""
    tried = f" (σ {row['tried']['chosen']:g})" if row["tried"] else ""
    return f"{format_spread(row['epe_mm'])}{tried}"


def write_cells(out: Path, names: Sequence[str]) -> Facts:
    """Writes cells.json and cells.md of the small studies `names` in `out`."""
    found = {"cells": [collect_study(out / name) for name in names]} | describe_sessions(out)
    write_json(out / "cells.json", found)
    write_text(out / "cells.md", format_cells(found))
    return found


# ---- the regime ----------------------------------------------------------------------------------
def format_regime(found: Mapping[str, Any]) -> str:
    """Three tables: what phi alone carries; how alike phi are; validation EPE over strength."""
    lines = [
        "| θ₀ moved by | cosine with the source's own displacement | EPE on the source, mm |",
        "| :-- | --: | --: |",
    ]
    for row in found["carried"]["rows"]:
        error = format_far_error(row["epe_mm"])
        lines.append(f"| {row['label']} | {row['cosine']:.3f} | {error} |")
    lines += ["", "| φ learned with | correlation with the run's φ |", "| :-- | --: |"]
    lines += [f"| {name} | {value:.3f} |" for name, value in found["alike"].items()]
    strengths = list(next(curve for name, curve in found["curves"].items() if name != "none"))
    lines += [
        "",
        f"| validation EPE, mm, at σ = | {' | '.join(strengths)} |",
        f"| :-- |{' --: |' * len(strengths)}",
    ]
    for name, curve in found["curves"].items():
        points = [curve.get(strength, []) for strength in strengths]
        if name == "none":
            points[0] = curve["0"]
        lines.append(f"| {name} | {' | '.join(map(format_point, points))} |")
    return "\n".join(lines) + "\n"


def format_far_error(epe_mm: float) -> str:
    """An error, or that it is absurd."""
    return f"{epe_mm:.1f}" if epe_mm < 1e4 else "over 10 m"


def format_point(values: Sequence[float | None]) -> str:
    """The mean over seeds, or that one diverged."""
    if not values:
        return ""
    finite = [value for value in values if value is not None]
    return f"{np.mean(finite):.1f}" if len(finite) == len(values) else "diverged"


def write_regime(out: Path) -> Facts:
    """Writes regime.json and regime.md."""
    found = read_json(out / "result.json") | describe_sessions(out)
    write_json(out / "regime.json", found)
    write_text(out / "regime.md", format_regime(found))
    return found


# ---- anew ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tables:
    """Settings of the tables."""

    out: str = "runs/study"
    """Folder of a study."""


def run(config: Tables) -> None:
    """Writes the tables that belong to a folder."""
    out = Path(config.out)
    if (out / "study_rows.json").exists():
        write_study(out)
    elif (out / "cells.json").exists():
        cells = read_json(out / "cells.json")["cells"]
        write_cells(out, [cell["target"] for cell in cells])
    elif (out / "curves").exists():
        write_regime(out)
    else:
        raise InputError(f"{out}: expected the folder of a study, found no rows to report")


if __name__ == "__main__":
    import tyro

    end_in_one_sentence(lambda: run(tyro.cli(Tables)))
