"""Puts what docs/results/*.json holds into README.md, docs/study.md and docs/paper.md: tables
between their markers, numbers inside sentences, and draws the study's charts.

cp runs/demo/results.json docs/results/demo.json && python tools/update_readme.py

In a sentence <!-- =FILE/ROW --> … <!-- / --> is a row's mean and spread in mm, `=FILE/ROW mean`
the mean, `=FILE/ROW vs REF` its difference to another row with the interval, `=FILE/ROW share
REF` that in per cent; FILE is FILE:CELL where there are several.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the studies, which are not installed
from studies.units import format_units  # noqa: E402

from cmkg.hands.report.run_page import format_tables  # noqa: E402
from studies import tables  # noqa: E402


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


# What the commands of earlier results are called today.
RENAMED = {
    "cmkg run study ": "python -m studies.controls ",
    "cmkg run ingredients ": "python -m studies.ingredients ",
    "cmkg run graded ": "python -m studies.graded ",
    "cmkg run sources ": "python -m studies.sources ",
    "cmkg run regime ": "python -m studies.regime ",
}


def command_of(results):
    """The command that gives these results, as it is called today."""
    command = results["commands"][-1]
    for old, new in RENAMED.items():
        command = command.replace(old, new)
    return command


def study_block(results):
    command = f"`{command_of(results)}`, c" if "commands" in results else "C"
    facts = f"{command}ommit {', '.join(results['commits'])}, {results['machine']['cores']} cores"
    if "cells" in results:
        return f"{facts}.\n\n{tables.format_cells(results)}"
    if "curves" in results:
        return f"{facts}.\n\n{tables.format_regime(results)}"
    return (
        f"{facts}, {results['epochs']} epochs, {len(results['seeds'])} "
        f"seeds.\n\n{tables.format_study(results)}"
    )


def format_number(results, file, row, what, reference):
    """The text of one number in a sentence; see above. Raises SystemExit where the results do
    not have it."""
    stem, _, cell = file.partition(":")
    try:
        held = results[stem]
        held = next(c for c in held["cells"] if c["target"] == cell) if cell else held
        errors = {r["name"]: r["epe_mm"] for r in held["rows"]}
        error, other = errors[row], errors[reference] if reference else None
    except (KeyError, StopIteration) as missing:
        raise SystemExit(
            f"<!-- ={file}/{row} {what} {reference} -->: docs/results has no such row ({missing})"
        ) from None
    if other:
        d = tables.difference(np.array(error["values"]), np.array(other["values"]))
        low, high = d["interval"]
        digits = 1 if max(-low, high) >= 0.5 else 2
        text = (
            f"{d['mean']:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
            if what == "vs"
            else f"{100 * d['share']:+.0f} %"
        )
        return text.replace("-", "−")
    return (
        f"{error['mean']:.1f}"
        if what == "mean" or error["sd"] is None
        else f"{error['mean']:.1f} ± {error['sd']:.1f}"
    )


IN_A_SENTENCE = re.compile(
    r"(<!-- =(\S+)/(\S+)(?: (mean|vs|share)(?: (\S+))?)? -->).*?<!-- / -->", re.DOTALL
)


def sentences(text, results):
    """`text` with every number of a sentence anew."""
    return IN_A_SENTENCE.sub(
        lambda m: f"{m[1]}{format_number(results, m[2], m[3], m[4] or '', m[5] or '')}<!-- / -->",
        text,
    )


CHARTS = {
    "study": {"study-rendered": "rendered", "study-real": "photographs"},
    "study_strong": {
        "study-strong-again": "rendered, source anew",
        "study-strong-rendered": "rendered",
        "study-strong-real": "photographs",
    },
    "ingredients": {
        "ingredients-rendered": "rendered",
        "ingredients-real": "photographs",
        "ingredients-wide": "photographs, wide",
    },
}
STUDIES = ("study-", "ingredients-", "graded", "sources", "regime")


def block_of(name, held):
    """What stands between a result's markers."""
    if name == "units":
        facts = f"`python -m studies.units`, commit {held['commit']}, {held['machine']}, one seed."
        return f"{facts}\n\n{format_units(held)}"
    return study_block(held) if name.startswith(STUDIES) else run_block(held)


def filled_documents():
    """{path: text} of the pages as the results have them."""
    pages = ("README.md", "docs/study.md", "docs/paper.md")
    documents = {ROOT / page: (ROOT / page).read_text() for page in pages}
    results = {
        path.stem: json.loads(path.read_text())
        for path in sorted((ROOT / "docs/results").glob("*.json"))
    }
    for name, held in results.items():
        block = block_of(name, held)
        new = {
            document: text
            for document, old in documents.items()
            if (text := filled(old, name, block)) is not None
        }
        if not new:
            raise SystemExit(
                f"none of {', '.join(pages)} has <!-- {name} --> ... <!-- /{name} --> to fill"
            )
        documents |= new
    return {path: sentences(text, results) for path, text in documents.items()}


def main():
    for document, text in filled_documents().items():
        document.write_text(text)
    for name, files in CHARTS.items():
        held = [
            json.loads((ROOT / f"docs/results/{file}.json").read_text()) | {"target": title}
            for file, title in files.items()
        ]
        (ROOT / f"docs/{name}.svg").write_text(tables.draw_study(held))


if __name__ == "__main__":
    main()
