"""Puts what docs/results/*.json holds into README.md and the pages of docs/ that have its markers:
tables between them, numbers inside sentences; and draws the study's charts.

cp runs/demo/results.json docs/results/demo.json && python -m tools.fill_documents

In a sentence <!-- =FILE/ROW --> … <!-- / --> is a row's mean and spread in mm, `=FILE/ROW mean`
the mean, `=FILE/ROW vs REF` its difference to another row with the interval, `=FILE/ROW share
REF` that in per cent; FILE is FILE:CELL where there are several. `=FILE/correlation` is that of
what ℓ² gains over the cells and what the prior gains.

paper-open.json holds the runs of the paper's tables on open data: {name: paper.json of the run, and
its "command"}.
"""

import json
import re
from pathlib import Path

import numpy as np
from benchmarks.photograph_tables import (
    fifths_block,
    front_photographs_block,
    photographs_block,
    shares_block,
)
from studies.adapting_tables import adapting_curve_block, adapting_kinds_block, adapting_rows_block
from studies.chart import draw_errors, draw_labels
from studies.paper_tables import PAPER, errors_of_shared_seeds, paper_block, small_paper_block
from studies.tables import table_of
from studies.units import format_units
from studies.worth_tables import (
    ON_CHART,
    cells_block,
    front_worth_block,
    join_seeds,
    shared_values,
    small_worth_block,
)

from cmkg.hands.paper.paper_claims import correlate_gains
from cmkg.hands.report.run_page import format_tables
from studies import tables

ROOT = Path(__file__).parents[1]


def filled(text, name, block):
    """`text` with what stands between the markers of `name` replaced by block; None where there
    are none."""
    new, found = re.subn(
        f"<!-- {name} -->.*?<!-- /{name} -->",
        lambda _: f"<!-- {name} -->\n{block}<!-- /{name} -->",
        text,
        flags=re.DOTALL,
    )
    return new if found else None


def run_block(results):
    sessions, machine = results["sessions"], results["sessions"][-1]["machine"]
    commits = ", ".join(dict.fromkeys(s["commit"] for s in sessions))
    minutes = sum(results["seconds"].values()) / 60
    facts = (
        f"`{sessions[-1]['command']}`, commit {commits}, {machine['cores']} cores, "
        f"{minutes:.0f} min of training and tuning."
    )
    return f"{facts}\n\n{format_tables(results)}"


def format_number(results, file, row, what, reference):
    """The text of one number in a sentence; see above. Raises SystemExit where the results do
    not have it."""
    stem, _, cell = file.partition(":")
    try:
        if row == "correlation":
            return f"{gains_correlation(results[stem]):.2f}"
        held = results[stem]
        if stem == PAPER:
            errors = errors_of_shared_seeds(held[cell], [row, reference] if reference else [row])
            rows = {name: {"epe_mm": one} for name, one in errors.items()}
        else:
            held = next(c for c in held["cells"] if c["target"] == cell) if cell else held
            rows = {r["name"]: r for r in held["rows"]}
        error = rows[row]["epe_mm"]
        other = shared_values(rows[row], rows[reference]) if reference else None
    except (KeyError, StopIteration) as missing:
        raise SystemExit(
            f"<!-- ={file}/{row} {what} {reference} -->: docs/results has no such row ({missing})"
        ) from None
    if other:
        d = tables.difference(*map(np.array, other))
        text = f"{100 * d['share']:+.0f} %"
        if what == "vs" and d["interval"] is None:
            text = f"{d['mean']:+.1f} ({d['seeds']} seeds)"
        elif what == "vs":
            low, high = d["interval"]
            digits = 1 if max(-low, high) >= 0.5 else 2
            text = f"{d['mean']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
        return text.replace("-", "−")
    return (
        f"{error['mean']:.1f}"
        if what == "mean" or error["sd"] is None
        else f"{error['mean']:.1f} ± {error['sd']:.1f}"
    )


def gains_correlation(results):
    """Over the cells: of what tuned ℓ² gains on no regulariser, and what the prior does."""
    errors = []
    for cell in results["cells"]:
        mean = {row["name"]: row["epe_mm"]["mean"] for row in cell["rows"]}
        errors.append([mean["none"], mean["l2"], mean["prior-p2"]])
    return correlate_gains(np.array(errors))


IN_A_SENTENCE = re.compile(
    r"(<!-- =([^\s/]+)/(\S+)(?: (mean|vs|share)(?: (\S+))?)? -->).*?<!-- / -->", re.DOTALL
)


def sentences(text, results):
    """`text` with every number of a sentence anew."""
    return IN_A_SENTENCE.sub(
        lambda m: f"{m[1]}{format_number(results, m[2], m[3], m[4] or '', m[5] or '')}<!-- / -->",
        text,
    )


# ---- the paper's tables on open data -------------------------------------------------------------
MORE_SEEDS = "-more-seeds"  # ends the name of a result's second file


def blocks_of(name, held):
    """{marker: what stands between its markers} of a result."""
    if name == PAPER:
        return {PAPER: paper_block(held), f"{PAPER}-small": small_paper_block(held)}
    if name == "worth":
        front = {f"{name}-front": front_worth_block(held)}
        return {name: cells_block(held), f"{name}-small": small_worth_block(held)} | front
    if name == "photographs":
        return {
            name: photographs_block(held),
            f"{name}-fifths": fifths_block(held),
            f"{name}-shares": shares_block(held),
            f"{name}-front": front_photographs_block(held),
        }
    if name == "adapting":
        return {
            name: adapting_rows_block(held),
            f"{name}-curve": adapting_curve_block(held),
            f"{name}-kinds": adapting_kinds_block(held),
        }
    if name == "recordings":
        return {name: recordings_block(held)}
    if name == "weights":
        return {name: weights_block(held)}
    return {name: block_of(name, held)}


def recordings_block(held):
    """What examples/recordings.sh prints."""
    names = {
        "teacher": "depth itself (the teacher), on the labelled pairs",
        "student": "pictures of the labelled pairs",
        "control": "control: on all pairs, taught by that student",
        "distilled": "**on all pairs, taught by the teacher**",
    }
    body = [[label, f"{held['epe_mm'][name]:.1f}"] for name, label in names.items()]
    return "\n".join([*table_of(["", "EPE, mm"], body), ""])


def weights_block(held):
    """What teaching changed, on what it was chosen on: no labelled photograph."""
    body = []
    for network, result in held.items():
        for name in ("untouched", "taught"):
            cells = []
            for kind in ("rendered", "photographs"):
                one = result[name][kind]
                cells += [f"{one[key]:.1f}" for key in ("mm", "procrustes_mm", "px")]
            body.append([network, name, *cells])
    heads = ["", "", *("mm", "Procrustes", "px") * 2]
    return "\n".join([*table_of(heads, body), ""])


def block_of(name, held):
    """What stands between a result's markers."""
    if name == "units":
        facts = f"`python -m studies.units`, commit {held['commit']}, {held['machine']}, one seed."
        return f"{facts}\n\n{format_units(held)}"
    return cells_block(held) if "cells" in held else run_block(held)


def filled_documents():
    """{path: text} of the pages as the results have them."""
    pages = (
        "README.md",
        *(
            f"docs/{page}.md"
            for page in (
                "study",
                "study_tables",
                "paper",
                "hands",
                "mediapipe",
                "recordings",
                "demo",
            )
        ),
    )
    documents = {ROOT / page: (ROOT / page).read_text() for page in pages}
    results = load_results("docs/results")
    for name, held in results.items():
        for marker, block in blocks_of(name, held).items():
            new = {
                document: text
                for document, old in documents.items()
                if (text := filled(old, marker, block)) is not None
            }
            if not new:
                raise SystemExit(
                    f"none of {', '.join(pages)} has <!-- {marker} --> ... <!-- /{marker} --> to "
                    "fill"
                )
            documents |= new
    return {path: sentences(text, results) for path, text in documents.items()}


def load_results(folder):
    """{name: what its file holds} of a folder of results; what is in two files is one result."""
    held = {
        path.stem: json.loads(path.read_text()) for path in sorted((ROOT / folder).glob("*.json"))
    }
    for name in [name for name in held if name.endswith(MORE_SEEDS)]:
        first = name.removesuffix(MORE_SEEDS)
        if first not in held:
            raise SystemExit(f"{folder}/{name}.json: expected {first}.json beside it")
        held[first] = join_seeds(held[first], held.pop(name))
    return held


def main():
    for document, text in filled_documents().items():
        document.write_text(text)
    results = load_results("docs/results")
    (ROOT / "docs/labels.svg").write_text(draw_labels(results["labels"]))
    panels = []
    for cell in results["worth"]["cells"][1:]:
        rows = {row["name"]: row for row in cell["rows"]}
        panels.append({"target": cell["target"], "rows": [rows[name] for name in ON_CHART]})
    (ROOT / "docs/worth.svg").write_text(draw_errors(panels, ("untouched-student", "l2")))


if __name__ == "__main__":
    main()
