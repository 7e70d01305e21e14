"""`cmkg run real`: the full experiment on a folder of recordings; demo.py implements it."""

from __future__ import annotations

from .demo import run
from .demo_settings import SLIM_NET, Experiment, Expert

__all__ = ["SETTINGS", "run"]

SETTINGS = Experiment(
    out="runs/real",
    target="folder",
    source_count=10_000,
    with_prior=True,
    net=SLIM_NET,
    expert=Expert(target_epochs=20, stops=(0, 5, 20)),
)
