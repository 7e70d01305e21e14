"""Runs a study as a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tyro

from cmkg.cli.exit_codes import end_in_one_sentence


def main(run: Callable[[Any], object], settings: type) -> None:
    """Runs a study with settings from the command line; prints errors as sentences."""
    end_in_one_sentence(lambda: run(tyro.cli(settings)))
