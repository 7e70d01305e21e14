"""Puts the tables of docs/results/*.json into README.md and docs/study.md between their markers, and draws the study's charts
from them: no number there is typed.

cp runs/demo/results.json docs/results/demo.json && python tools/update_readme.py
"""

import json
import re
from pathlib import Path

from cmkg.report import page, study

ROOT = Path(__file__).parents[1]


def filled(text, name, block):
    """`text` with what stands between the markers of `name` replaced by block; None where there are none."""
    new, found = re.subn(f"<!-- {name} -->.*?<!-- /{name} -->", lambda _: f"<!-- {name} -->\n{block}<!-- /{name} -->", text, flags=re.DOTALL)
    return new if found else None


def run_block(results):
    sessions, machine = results["sessions"], results["sessions"][-1]["machine"]
    commits = ", ".join(dict.fromkeys(s["commit"] for s in sessions))
    minutes = sum(results["seconds"].values()) / 60
    facts = f"`{sessions[-1]['command']}`, commit {commits}, {machine['cores']} cores, {minutes:.0f} min of training and tuning."
    return f"{facts}\n\n{page.markdown(results)}"


def study_block(results):
    command = f"`{results['commands'][-1]}`, c" if "commands" in results else "C"
    facts = f"{command}ommit {', '.join(results['commits'])}, {results['machine']['cores']} cores"
    if "cells" in results:
        return f"{facts}.\n\n{study.cells_markdown(results)}"
    if "curves" in results:
        return f"{facts}.\n\n{study.regime_markdown(results)}"
    return f"{facts}, {results['epochs']} epochs, {len(results['seeds'])} seeds.\n\n{study.markdown(results)}"


CHARTS = {
    "study": ("study-rendered", "study-real"),
    "study_strong": ("study-strong-rendered", "study-strong-real"),
    "ingredients": ("ingredients-rendered", "ingredients-real"),
}
STUDIES = ("study-", "ingredients-", "graded", "sources", "regime")


def main():
    documents = {path: path.read_text() for path in (ROOT / "README.md", ROOT / "docs/study.md")}
    for path in sorted((ROOT / "docs/results").glob("*.json")):
        results = json.loads(path.read_text())
        block = study_block(results) if path.stem.startswith(STUDIES) else run_block(results)
        new = {document: text for document, old in documents.items() if (text := filled(old, path.stem, block)) is not None}
        if not new:
            raise SystemExit(f"neither README.md nor docs/study.md has <!-- {path.stem} --> ... <!-- /{path.stem} --> to fill")
        documents |= new
    for document, text in documents.items():
        document.write_text(text)
    for name, files in CHARTS.items():
        held = [json.loads((ROOT / f"docs/results/{file}.json").read_text()) for file in files]
        (ROOT / f"docs/{name}.svg").write_text(study.chart(held))


if __name__ == "__main__":
    main()
