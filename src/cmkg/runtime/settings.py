"""Dataclasses of settings: as JSON, and flat as on the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

NO_PART_OF_A_RUN = ("out", "checkpoint_seconds")  # may differ when it goes on


def settings_of(config: Any) -> dict[str, Any]:
    """A dataclass of settings as JSON gives it back, without those that are no part of a run.

    A folder may be moved, and kept more often.
    """

    def without(settings: dict[str, Any]) -> dict[str, Any]:
        return {
            name: without(value) if isinstance(value, dict) else value
            for name, value in settings.items()
            if name not in NO_PART_OF_A_RUN
        }

    return without(json.loads(json.dumps(dataclasses.asdict(config), default=str)))


def flatten_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{name: value} with the settings of inner groups among the outer ones, as in commands."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten_settings(value)
        else:
            flat[name] = value
    return flat
