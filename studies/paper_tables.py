"""The paper's tables on open data, for the documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmkg.hands.paper.paper_claims import errors_by_seed, format_gain, format_ours
from cmkg.hands.paper.paper_page import CLAIMS, EXPLAIN_CLAIMS, TABLES, TITLES
from cmkg.hands.paper.presets import TABLE_3_EPE_MM, TABLE_3_ROWS
from cmkg.hands.report.collect import format_spread, spread
from studies.tables import table_of

PAPER = "paper-open"


def rows_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """{stage: row} of the rows of all tables that have results in a run."""
    rows = (row for preset in TABLES for row in run["presets"][preset])
    return {row["stage"]: row for row in rows if row["ours"]}


def errors_of_shared_seeds(run: Mapping[str, Any], stages: Sequence[str]) -> dict[str, Any]:
    """{stage: EPE} over the seeds that all stages have."""
    rows = rows_run(run)
    values = errors_by_seed([rows[stage] for stage in stages]).tolist()
    return {stage: spread(errors) for stage, errors in zip(stages, values, strict=True)}


def error_of(run: Mapping[str, Any], stage: str) -> str:
    """Formats as "30.9 ± 0.3", with the number of seeds unless it is three; a dash for none."""
    row = rows_run(run).get(stage)
    if row is None:
        return "–"
    seeds = len(row["ours"]["seeds"])
    few = "" if seeds == 3 else f" ({seeds} seed{'s' * (seeds > 1)})"
    return format_spread(row["ours"]["epe_mm"], 1) + few


def paper_block(runs: Mapping[str, Any]) -> str:
    """All rows of the three tables, and whether their order is reproduced, for each run."""
    lines = []
    for name, run in runs.items():
        trained = {k: n for k, n in run["sets"].items() if not k.endswith(("test", "evaluation"))}
        sets = ", ".join(f"{name} {count}" for name, count in trained.items())
        facts = (
            f"`{run['command']}`, commit {', '.join(run['commits'])}, {', '.join(run['machines'])}"
        )
        lines += [f"{name}: {facts}; samples: {sets}.", ""]
    first = next(iter(runs.values()))
    for preset in TABLES:
        lines += [f"**{TITLES[preset]}** (EPE, mm; three seeds where not said)", ""]
        body = []
        for row in first["presets"][preset]:
            label = row["label"].split(", ")
            title = ", ".join(part for part in label if not part.endswith(" epochs"))
            half = {"student": ", first half", "continued": ", both halves"}
            title += half.get(row["stage"].split("/")[1], "")
            ours = [error_of(run, row["stage"]) for run in runs.values()]
            paper = "–" if row["paper_epe_mm"] is None else f"{row['paper_epe_mm']:.2f}"
            body.append([title, paper, *ours])
        lines += [*table_of(["row", "the paper", *runs], body), ""]
    lines += [f"**{CLAIMS}** {EXPLAIN_CLAIMS}", ""]
    body = []
    for number, claim in enumerate(first["claims"]):
        ours = []
        for run in runs.values():
            run_claim = run["claims"][number]
            verdict = f": {run_claim['verdict']}" if run_claim["verdict"] else ""
            ours.append("–" if run_claim["ours"] is None else format_ours(run_claim) + verdict)
        body.append([claim["claim"], format_gain(claim["paper"], claim["unit"]), *ours])
    return "\n".join([*lines, *table_of(["against", "the paper", *runs], body), ""])


def small_paper_block(runs: Mapping[str, Any]) -> str:
    """The three tables in their shortest form; Table 3 is a matrix of the first run."""

    def small(preset: str, chosen: Mapping[str, str]) -> list[list[str]]:
        paper = {row["stage"]: row["paper_epe_mm"] for row in first["presets"][preset]}
        return [
            [label, f"{paper[stage]:.1f}", *(error_of(run, stage) for run in runs.values())]
            for stage, label in chosen.items()
        ]

    first = next(iter(runs.values()))
    table_1 = {
        "r18/continued": "ResNet-18, RGB",
        "r18/act": "taught by depth, L_ACT",
        "r18/act-att": "taught by depth, L_ACT + λ L_ATT",
        "r18-a/act-att": "… with 𝒜",
        "r50-a/act-att": "… ResNet-50",
        "r18/teacher": "depth itself",
    }
    table_2 = {
        "stb/none": "no regulariser",
        "stb/l1-1e-4": "ℓ¹, σ = 1e-4",
        "stb/l2-1e-5": "ℓ², σ = 1e-5 (the paper's best)",
        "stb/l2-1e-3": "ℓ², σ = 1e-3 (our best)",
        "stb/prior-l1": "learned prior, p = 1",
        "stb/prior-l2": "learned prior, p = 2",
    }
    columns = ["the paper", *runs]
    lines = table_of(["Table 1, source", *columns], small("table1", table_1)) + [""]
    lines += table_of(["Table 2, target", *columns], small("table2", table_2)) + [""]
    name, body = next(iter(runs)), []
    for data, paper in TABLE_3_EPE_MM.items():
        ours = [error_of(first, f"{data}/{row}") for row, _ in TABLE_3_ROWS]
        body.append([data, " / ".join(f"{error:.1f}" for error in paper), *ours])
    head = ["Table 3, targets", "the paper: none / ℓ² / prior"]
    head += [f"{name}: {label}" for label in ("none", "ℓ²", "prior")]
    return "\n".join([*lines, *table_of(head, body), ""])
