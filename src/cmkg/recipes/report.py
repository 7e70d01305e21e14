"""`cmkg report`: writes a run's report anew from what lies in its folder."""

from dataclasses import dataclass
from pathlib import Path

from .. import engine
from ..errors import InputError


@dataclass(frozen=True)
class Report:
    out: str = "runs/paper"
    """Folder of a `cmkg run`."""


def run(config: Report):
    from ..report import page, paper, study

    out = Path(config.out)
    if (out / "paper_rows.json").exists():
        paper.write(out)
        engine.say(f"{out}/paper.html is written")
    elif (out / "rows.json").exists():
        page.write(out)
        engine.say(f"{out}/report.html is written")
    elif (out / "study_rows.json").exists():
        study.write(out)
        engine.say(f"{out}/study.md, study.svg and study.json are written")
    elif (out / "cells.json").exists():
        study.write_cells(
            out, [cell["target"] for cell in engine.read_json(out / "cells.json")["cells"]]
        )
        engine.say(f"{out}/cells.md and cells.json are written")
    elif (out / "curves").exists():
        study.write_regime(out)
        engine.say(f"{out}/regime.md and regime.json are written")
    else:
        raise InputError(
            f"{out}: expected the folder of a `cmkg run` that has rows to report, found none"
        )
