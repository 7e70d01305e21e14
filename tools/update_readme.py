"""Puts the tables of docs/results/*.json into README.md between their markers: no number there is typed.

cp runs/demo/results.json docs/results/demo.json && python tools/update_readme.py
"""

import json
import re
from pathlib import Path

from cmkg.report.page import markdown

ROOT = Path(__file__).parents[1]


def main():
    readme = ROOT / "README.md"
    text = readme.read_text()
    for path in sorted((ROOT / "docs/results").glob("*.json")):
        results = json.loads(path.read_text())
        sessions, machine = results["sessions"], results["sessions"][-1]["machine"]
        commits = ", ".join(dict.fromkeys(s["commit"] for s in sessions))
        minutes = sum(results["seconds"].values()) / 60
        facts = f"`{sessions[-1]['command']}`, commit {commits}, {machine['cores']} cores, {minutes:.0f} min of training and tuning."
        block = f"<!-- {path.stem} -->\n{facts}\n\n{markdown(results)}<!-- /{path.stem} -->"
        text, found = re.subn(
            f"<!-- {path.stem} -->.*?<!-- /{path.stem} -->", lambda _, b=block: b, text, flags=re.DOTALL
        )
        if not found:
            raise SystemExit(f"README.md has no <!-- {path.stem} --> ... <!-- /{path.stem} --> to fill")
    readme.write_text(text)


if __name__ == "__main__":
    main()
