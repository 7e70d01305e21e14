"""`cmkg report`: rewrites a run's report from the contents of its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...runtime.checks import expect_positive
from ...runtime.progress import say


@dataclass(frozen=True)
class WriteReport:
    """Rewrite the report of a finished or partial run."""

    out: str = "runs/paper"
    """Folder of a `cmkg run`."""
    pictures: int = 6
    """Number of test pictures per row in the paper's Figs. 6 and 8 to 10."""

    def __post_init__(self) -> None:
        expect_positive(self, "pictures")


def run(config: WriteReport) -> None:
    """Writes the report of the folder's kind of run."""
    from ..paper import paper_page
    from ..report import run_page

    out = Path(config.out)
    if (out / "paper_rows.json").exists():
        paper_page.write(out, config.pictures)
        say(f"{out}/paper.html is written")
    elif (out / "rows.json").exists():
        run_page.write(out)
        say(f"{out}/report.html is written")
    else:
        raise InputError(
            f"{out}: expected the folder of a `cmkg run` that has rows to report, found none"
        )


SETTINGS = WriteReport
