"""Converts dataclasses of settings to JSON, and flattens them as on the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

NO_PART_OF_A_RUN = ("out", "checkpoint_seconds")  # may differ on resuming


def settings_of(config: Any) -> dict[str, Any]:
    """Returns a dataclass of settings as it reads back from JSON, without those that may change.

    A folder may be moved, and checkpoints may be written more or less often.
    """

    def without(settings: dict[str, Any]) -> dict[str, Any]:
        return {
            name: without(value) if isinstance(value, dict) else value
            for name, value in settings.items()
            if name not in NO_PART_OF_A_RUN
        }

    return without(json.loads(json.dumps(dataclasses.asdict(config), default=str)))


def flatten_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns {name: value} with nested groups flattened, as in commands."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flatten_settings(value)
        else:
            flat[name] = value
    return flat
