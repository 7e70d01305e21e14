"""`cmkg teacher`: trains the depth teacher on the source; the stage itself is student.py."""

from __future__ import annotations

from ..stages.stage_settings import OptimConfig
from .student import Source, run

__all__ = ["SETTINGS", "run"]

SETTINGS = Source(modality="depth", out="runs/teacher", optim=OptimConfig(epochs=200))
