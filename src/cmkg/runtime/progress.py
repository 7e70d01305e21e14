"""Progress output of long jobs: headings, bars, and the remaining time.

On a terminal it is a live bar; elsewhere (a log file, CI) one plain line every ten seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar

from .ranks import rank
from .text import printable

SECONDS_BETWEEN_LINES = 10.0


def say(text: str) -> None:
    """Prints a heading in the progress output, from the first process only."""
    if rank() == 0:
        text = printable(text)
        heading = f"\033[1m{text}\033[0m" if sys.stderr.isatty() else f"-- {text}"
        print(heading, file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Prints a plain line in the progress output, from the first process only."""
    if rank() == 0:
        print(printable(text), file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """Formats a duration in seconds, minutes or hours.

    >>> format_duration(42), format_duration(600), format_duration(7200)
    ('42 s', '10.0 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Bar:
    """A context that gives advance(), to be called once per step.

    Args:
        name: What is being done, e.g. "depth teacher".
        total: The number of steps; None if unknown.
        first: The number of steps done by earlier sessions.
        per_step: Things per step, for the rate.
        things: What is counted, e.g. "images".
        shown: If False, nothing is shown.
    """

    def __init__(
        self,
        name: str,
        total: int | None,
        first: int = 0,
        per_step: int = 1,
        things: str = "images",
        shown: bool = True,
    ) -> None:
        self.name = name
        self.total = total
        self.first = first
        self.done = first
        self.per_step = per_step
        self.things = things
        self.visible = shown and rank() == 0
        self.began = self.shown = time.monotonic()
        self.live: Any = None

    def __enter__(self) -> Callable[[], None]:
        if self.visible and sys.stderr.isatty():
            self.live = _live_bar()
            self.live.start()
            self.task = self.live.add_task(
                self.name, total=self.total, completed=self.first, rate=""
            )
        return self.advance

    def advance(self) -> None:
        """Counts one more step, and updates the output if due."""
        self.done += 1
        if not self.visible:
            return
        now = time.monotonic()
        rate = (self.done - self.first) * self.per_step / max(now - self.began, 1e-9)
        if self.live:
            shown = f"{rate:.0f} {self.things}/s{self._whole(rate)}"
            self.live.update(self.task, completed=self.done, rate=shown)
            return
        finished = self.done == self.total and now - self.began > SECONDS_BETWEEN_LINES
        if now - self.shown > SECONDS_BETWEEN_LINES or finished:
            self.shown = now
            note(self._line(rate))

    def _line(self, rate: float) -> str:
        if self.total is None:
            return f"{self.name}: {self.done}  {rate:.0f} {self.things}/s"
        left = (self.total - self.done) * self.per_step / max(rate, 1e-9)
        return (
            f"{self.name}: {self.done}/{self.total}  {rate:.0f} {self.things}/s  "
            f"{format_duration(left)} left{self._whole(rate)}"
        )

    def _whole(self, rate: float) -> str:
        """Returns the remaining time of the whole chain that this is part of, at this rate."""
        if Overall.current is None or self.things != "images":
            return ""
        seconds = Overall.current.seconds_left(rate, self.done * self.per_step)
        return f", about {format_duration(seconds)} for the whole run" if seconds else ""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live:
            self.live.stop()


def _live_bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True, highlight=False),
    )


class Overall:
    """Estimates the remaining time of a chain of trainings from the finished work.

    Args:
        work: {part: its work, in images}; finished parts are left out.
    """

    current: ClassVar[Overall | None] = None  # the chain that this process is running

    def __init__(self, work: dict[str, float]) -> None:
        self.work = dict(work)
        self.began = time.monotonic()
        self.done = 0.0

    def __enter__(self) -> Overall:
        Overall.current = self
        return self

    def __exit__(self, *_: object) -> None:
        Overall.current = None

    def seconds_left(self, rate: float, done_of_part: float) -> float:
        """Returns the chain's remaining seconds, at a rate in images per second."""
        return max(sum(self.work.values()) - done_of_part, 0.0) / max(rate, 1e-9)

    def finish(self, part: str) -> None:
        """Counts a part as done."""
        self.done += self.work.pop(part, 0.0)

    def time_left(self) -> str:
        """Returns text such as ", about 12 min left for the whole run"; empty while unknown."""
        remaining = sum(self.work.values())
        if self.done == 0 or remaining == 0:
            return ""
        seconds = (time.monotonic() - self.began) / self.done * remaining
        return f", about {format_duration(seconds)} left for the whole run"
