"""Tables of the results of studies/adapting.py, for the documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from studies.tables import table_of

ADAPTING_ROWS = {
    "untouched": "untouched",
    "ridge": "the last layer alone, by ridge regression (seconds)",
    "plain": "**plain: what `cmkg adapt` does**",
    "decay": "with a pull to the start (L2-SP)",
    "frozen": "the first 20 layers frozen",
    "rendered": "rendered hands alongside",
    "average 0.8": "weights: 0.8 taught, 0.2 the start's (WiSE-FT)",
    "average 0.5": "weights: half taught, half the start's",
}


def mean_and_spread(values: Sequence[float]) -> str:
    """Formats as "13.8 ± 2.4"."""
    return f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"


def adapting_rows_block(result: Mapping[str, Any]) -> str:
    """The rows of studies/adapting.py over all held-out fifths."""
    body = []
    for name, label in ADAPTING_ROWS.items():
        fifths = result["rows"].get(name)
        if not fifths:
            continue
        order = [fifths[key] for key in sorted(fifths)]
        cells = [mean_and_spread([means[key] for means in order]) for key in ADAPTING_MEASURES]
        worst = max(means["mm"] for means in order)
        body.append(
            [label, *cells, f"{worst:.1f}", f"{100 * min(o['found'] for o in order):.0f} %"]
        )
    heads = ["", *ADAPTING_MEASURES.values(), "mm, worst fifth", "found, worst"]
    return "\n".join([*table_of(heads, body), ""])


ADAPTING_MEASURES = {
    "mm": "mm",
    "procrustes_mm": "Procrustes",
    "px_percent": "on the picture, %",
    "mm_no_camera": "mm, camera unknown",
}


def adapting_curve_block(result: Mapping[str, Any]) -> str:
    """Errors over the number of labels."""
    body, fifths = [], result["rows"]["untouched"]
    draws = len(next(iter(result["curve"].values())))
    untouched = [fifths[str(number)] for number in range(draws)]  # on the same fifths
    for labels, draws in ({"0": untouched} | result["curve"]).items():
        cells = [mean_and_spread([means[key] for means in draws]) for key in ADAPTING_MEASURES]
        body.append([labels, *cells])
    return "\n".join([*table_of(["labels", *ADAPTING_MEASURES.values()], body), ""])


def adapting_kinds_block(result: Mapping[str, Any]) -> str:
    """Errors on other kinds of pictures, and what is forgotten."""
    body = []
    for kind, rows in result["kinds"].items():
        for name in sorted(rows, key=lambda name: name != "untouched"):
            means = rows[name]
            label = name.replace("taught", "adapted").replace("plain pictures", "then: plain ones")
            keys = ("mm", "procrustes_mm", "px_percent")
            cells = ["–" if means[key] is None else f"{means[key]:.1f}" for key in keys]
            body.append([kind, label, *cells, f"{100 * means['found']:.0f} %"])
    heads = ["pictures", "", "mm", "Procrustes", "on the picture, %", "found"]
    return "\n".join([*table_of(heads, body), ""])
