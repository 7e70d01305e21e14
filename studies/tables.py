"""The studies' tables: every row compared to references, paired by seed, with t intervals.

    python -m studies.tables --out runs/ingredients

rewrites the tables of a study's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_1samp

from cmkg.cli.main import end_in_one_sentence
from cmkg.errors import InputError
from cmkg.hands.report.collect import collect_row, format_spread, format_strength, hide_folders
from cmkg.runtime.files import read_json, write_json, write_text
from studies.chart import draw_errors

REFERENCES = {"fine-tune-student": "plain fine-tuning"}
BULKY = ("weights", "pck", "per_joint_mm")
KEPT = ("target", "epochs", "seeds", "tries", "base")
LEVEL = 0.95
FEWEST = 3  # seeds needed for an interval

Facts = dict[str, Any]


def interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Student's t interval of a mean, for differences over few seeds; None below FEWEST.

    >>> interval([1.0, 2.0]) is None
    True
    >>> [round(end, 2) for end in interval([1.0, 2.0, 3.0])]
    [-0.48, 4.48]
    """
    if len(values) < FEWEST:
        return None
    if min(values) == max(values):
        return float(values[0]), float(values[0])
    bounds = ttest_1samp(np.asarray(values), 0.0).confidence_interval(level)
    return float(bounds.low), float(bounds.high)


def describe_sessions(out: Path) -> Facts:
    """Commits, commands and machine of the sessions that wrote a folder.

    Absolute paths are shortened to their last part.
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
            for reference in REFERENCES
            if reference in errors and reference != row["name"]
        }
        for key in BULKY:
            row.pop(key)
    return {"rows": rows, "diverged": diverged} | {key: plan[key] for key in KEPT}


def difference(values: np.ndarray, reference: np.ndarray) -> Facts:
    """Row minus reference, paired by seed, in mm; below zero is better than the reference."""
    paired = values - reference
    return {
        "mean": float(paired.mean()),
        "share": float(paired.mean() / reference.mean()),
        "interval": interval(paired),
        "seeds": len(paired),
    }


def format_difference(difference: Mapping[str, Any] | None) -> str:
    """Formats as "-1.25 [-1.32, -1.20], -5%", below three seeds "-1.25 (2), -5%", or nothing."""
    if difference is None:
        return ""
    share = f", {difference['share']:+.0%}" if "share" in difference else ""
    if difference["interval"] is None:
        return f"{difference['mean']:+.2f} ({difference['seeds']}){share}"
    low, high = difference["interval"]
    return f"{difference['mean']:+.2f} [{low:+.2f}, {high:+.2f}]{share}"


def format_study(found: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    compared = REFERENCES
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
    """The rows' errors as SVG, a panel for each of `studies` (returned by `collect_study`)."""
    return draw_errors(studies, list(REFERENCES))


def write_study(out: Path) -> Facts:
    """Writes study.json, study.md and study.svg into a study's folder.

    Returns the contents of study.json.
    """
    out = Path(out)
    study = collect_study(out) | describe_sessions(out)
    write_text(out / "study.svg", draw_study([study]))
    write_json(out / "study.json", study)
    write_text(out / "study.md", format_study(study))
    return study


# ---- several small studies side by side ----------------------------------------------------------
def formatter_of(found: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], str]:
    """The formatter of a row's EPE; it appends (n) if the row has fewer seeds than others."""
    rows = [row for cell in found["cells"] for row in cell["rows"]]
    counts = [len(row["seeds"]) for row in rows if "seeds" in row]

    def format_error(row: Mapping[str, Any]) -> str:
        seeds = len(row.get("seeds", ()))
        few = f" ({seeds})" if seeds and seeds < max(counts) else ""
        return format_spread(row["epe_mm"], 1) + few

    return format_error


def format_cells(found: Mapping[str, Any]) -> str:
    """Table of EPE in mm over seeds, one column per cell of `found`; (n) if seeds are missing."""
    labels: dict[str, str] = {}
    for cell in found["cells"]:
        labels |= {row["name"]: row["label"] for row in cell["rows"]}
    format_error = formatter_of(found)
    errors = [{row["name"]: format_error(row) for row in cell["rows"]} for cell in found["cells"]]
    names = [cell["target"] for cell in found["cells"]]
    lines = [f"| EPE, mm | {' | '.join(names)} |", f"| :-- |{' --: |' * len(names)}"]
    for name, label in labels.items():
        lines.append(f"| {label} | {' | '.join(cell.get(name, '') for cell in errors)} |")
    return "\n".join(lines) + "\n"


# ---- anew ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tables:
    """Rewrite the tables of a study."""

    out: str = "runs/study"
    """Folder of a study."""


def run(config: Tables) -> None:
    """Rewrites the tables in a folder."""
    out = Path(config.out)
    if not (out / "study_rows.json").exists():
        raise InputError(f"{out}: expected the folder of a study, found no rows to report")
    write_study(out)


if __name__ == "__main__":
    import tyro

    end_in_one_sentence(lambda: run(tyro.cli(Tables)))


def table_of(columns: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table: the first column left-aligned, the others right-aligned."""
    rule = [":--", *["--:"] * (len(columns) - 1)]
    return ["| " + " | ".join(cells) + " |" for cells in [columns, rule, *lines]]
