"""Tables of the results of studies/worth.py, for the documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmkg.hands.report.collect import spread
from studies import tables
from studies.tables import table_of


def cells_block(results: Mapping[str, Any]) -> str:
    """The table of a study with several cells, preceded by its runs."""
    parts = results.get("parts", [results])
    ran = []
    for part in parts:
        machine, seeds = part["machine"], part["settings"]["seeds"]
        where = machine["gpu"] or f"{machine['cores']} cores"
        which = f"seeds {', '.join(map(str, seeds))}" if len(parts) > 1 else f"{len(seeds)} seed"
        plural = "s" * (len(parts) == 1 and len(seeds) > 1)
        ran.append(f"commit {', '.join(part['commits'])}, {where}, {which}{plural}")
    facts = "; ".join(ran)
    return f"{facts[0].upper()}{facts[1:]}.\n\n{tables.format_cells(results)}"


def join_seeds(first: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Joins two parts of a study with different seeds: rows have the values of both."""
    cells = []
    for cell in first["cells"]:
        others: dict[str, Any] = {}
        for other in more["cells"]:
            if other["target"] == cell["target"]:
                others = {row["name"]: row for row in other["rows"]}
        rows: dict[str, dict[str, Any]] = {row["name"]: dict(row) for row in cell["rows"]}
        for row in rows.values():
            row["seeds"] = list(first["settings"]["seeds"])
        for name, row in others.items():
            if name not in rows:
                rows[name] = dict(row) | {"seeds": list(more["settings"]["seeds"])}
                continue
            values = rows[name]["epe_mm"]["values"] + row["epe_mm"]["values"]
            rows[name]["epe_mm"] = {"values": values}
            rows[name]["seeds"] += more["settings"]["seeds"]
        joined = [
            {
                "name": row["name"],
                "label": row["label"],
                "epe_mm": spread(row["epe_mm"]["values"]),
                "seeds": row["seeds"],
            }
            for row in rows.values()
        ]
        cells.append(cell | {"rows": joined})
    return first | {"cells": cells, "parts": [first, more]}


def shared_values(row: Mapping[str, Any], other: Mapping[str, Any]) -> Sequence[list[float]]:
    """The errors of two rows over the seeds that both have, in the same order."""
    if "seeds" not in row:
        return row["epe_mm"]["values"], other["epe_mm"]["values"]
    both = [dict(zip(one["seeds"], one["epe_mm"]["values"], strict=True)) for one in (row, other)]
    seeds = [seed for seed in row["seeds"] if seed in both[1]]
    return [[errors[seed] for seed in seeds] for errors in both]


# Rows of docs/worth.svg, in order: the gain from depth, then its transfer from theta_0.
ON_CHART = (
    "untouched-student",
    "untouched-rgb",
    "untouched-depth",
    "untouched-all",
    "tuned-student",
    "tuned-rgb",
    "tuned-depth",
    "tuned-all",
    "none",
    "l2",
    "adam",
    "adam-permuted",
    "adam-no-teacher",
    "centred",
    "centred-permuted",
    "centred-labels",
)


def small_worth_block(result: Mapping[str, Any]) -> str:
    """Rows without and with depth on the source and on both targets."""
    format_error = tables.formatter_of(result)
    cells = {cell["target"]: {row["name"]: row for row in cell["rows"]} for cell in result["cells"]}
    names = {"rendered": "rendered target", "photographs": "photographs"}
    rows = {
        "student": "labels only",
        "depth": "**taught by depth**",
        "rgb": "control: taught by RGB",
        "shuffled": "control: taught by shuffled depth",
        "all": "all 5,000 labels",
    }
    body = []
    for row, label in rows.items():
        errors = [cells["source"][row]]
        for target in names:
            errors += [cells[target].get(f"{how}-{row}") for how in ("untouched", "tuned")]
        body.append([label, *("" if error is None else format_error(error) for error in errors)])
    heads = [f"{title}, {how}" for title in names.values() for how in ("untouched", "trained on")]
    return "\n".join([*table_of(["student", "source", *heads], body), ""])


def front_worth_block(result: Mapping[str, Any]) -> str:
    """The gains from depth and the prior, next to common alternatives; see the README."""
    format_error = tables.formatter_of(result)
    cells = {cell["target"]: {row["name"]: row for row in cell["rows"]} for cell in result["cells"]}
    targets = ("rendered", "photographs")
    rows = [
        ("250 labels", "student", "untouched-student"),
        ("**250 labels, taught by depth on all pairs**", "depth", "untouched-depth"),
        ("control: taught by a network that sees pictures, too", "rgb", "untouched-rgb"),
        ("instead: 5,000 labels", "all", "untouched-all"),
        ("*then trained on the other set:* from random weights, weight decay", "", "l2"),
        ("from random weights, a prior by the paper's inner step", "", "letter"),
        ("from random weights, our variant of that prior", "", "adam"),
        ("control: our variant, learned without the teacher", "", "adam-no-teacher"),
        ("instead: from the student that depth taught", "", "tuned-depth"),
    ]
    body = []
    for label, source, target in rows:
        cell_rows = [cells["source"][source]] if source else [None]
        cell_rows += [cells[name].get(target) for name in targets]
        body.append(
            [label, *("–" if error is None else format_error(error) for error in cell_rows)]
        )
    heads = ["error, mm", "its own hands", "other rendered hands", "photographs"]
    return "\n".join([*table_of(heads, body), ""])
