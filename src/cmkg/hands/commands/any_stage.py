"""The training stages as one type, and how one of them runs."""

from __future__ import annotations

from typing import Any

from . import distill, evaluate, student, target
from .target import Target

SourceStage = student.Source | distill.Distill


Stage = SourceStage | Target | evaluate.Evaluate


def run_stage(stage: Stage) -> dict[str, Any]:
    """Runs a stage, or returns its stored result if it is finished."""
    if isinstance(stage, evaluate.Evaluate):
        return evaluate.run(stage)
    if isinstance(stage, Target):
        return target.run(stage)
    return distill.run(stage) if isinstance(stage, distill.Distill) else student.run(stage)
