"""Dataclasses of settings: as JSON, flat as on the command line, and with some changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

NO_PART_OF_A_RUN = ("out", "checkpoint_seconds")  # may differ when it goes on

Config = TypeVar("Config")  # a dataclass of settings


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


def replace_settings(config: Config, **changes: Any) -> Config:
    """A dataclass of settings with some changed, wherever in its groups they stand.

    Raises:
        TypeError: there is no setting of such a name.
    """
    whole: Any = config
    own = {field.name for field in dataclasses.fields(whole)}
    direct = {name: value for name, value in changes.items() if name in own}
    inner = {name: value for name, value in changes.items() if name not in own}
    for group in own:
        value: Any = getattr(config, group)
        if not hasattr(value, "__dataclass_fields__") or group in direct:
            continue
        names = {field.name for field in dataclasses.fields(value)}
        found = {name: inner.pop(name) for name in list(inner) if name in names}
        if found:
            direct[group] = dataclasses.replace(value, **found)
    if inner:
        raise TypeError(f"{type(config).__name__} has no setting {next(iter(inner))!r}")
    replaced: Config = dataclasses.replace(whole, **direct)
    return replaced
