"""`cmkg report`: writes a run's report anew from what lies in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...runtime.checks import expect_positive
from ...runtime.progress import say


@dataclass(frozen=True)
class WriteReport:
    """Settings of a report."""

    out: str = "runs/paper"
    """Folder of a `cmkg run`."""
    pictures: int = 6
    """Test pictures a row, of the paper's Figs. 6 and 8 to 10."""

    def __post_init__(self) -> None:
        expect_positive(self, "pictures")


def run(config: WriteReport) -> None:
    """Writes the report that belongs to the folder."""
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
