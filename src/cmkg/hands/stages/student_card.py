"""What a student's model card tells, and the end of every stage that trains one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...cards import write_card
from ...runtime.runs import Run
from ...runtime.settings import flatten_settings

ABOUT_STUDENT = (
    "Estimates 21 joints of a hand from one RGB crop, wrist-relative, in units of the bone |middle "
    "MCP - middle PIP|. Trained with depth as the superior modality where the settings below say "
    "so. Left hands are to be mirrored first. Its errors are those of its test set alone."
)
PATHS = ("data", "extra", "test", "start", "prior", "centre", "teacher")
NUMBERS = ("sigma", "exponent", "epochs", "batch", "lr", "schedule", "seed")


def card_facts(settings: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    """A training's settings and its test; of folders the last part only."""
    flat = flatten_settings(settings)
    facts: dict[str, Any] = {
        "EPE, mm": f"{result['epe_mm']:.2f}",
        "AUC 20-50": f"{result['auc_20_50']:.3f}",
        "test samples": result["samples"],
    }
    facts |= {name: Path(flat[name]).name for name in PATHS if flat.get(name)}
    return facts | {name: flat[name] for name in NUMBERS if flat.get(name)}


def finish_student(run: Run, result: dict[str, Any], title: str) -> dict[str, Any]:
    """Writes the stage's result and, beside its student, a model card."""
    facts = card_facts(run.settings, result)
    write_card(run.path("README.md"), title, facts, ABOUT_STUDENT)
    return run.finish(result)
