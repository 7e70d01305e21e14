"""What a person sees while something long runs: headings, bars, the time that is left.

On a terminal a live bar; elsewhere (a log file, CI) one plain line every ten seconds.
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
    """Prints a heading among the progress, from the first process."""
    if rank() == 0:
        text = printable(text)
        heading = f"\033[1m{text}\033[0m" if sys.stderr.isatty() else f"-- {text}"
        print(heading, file=sys.stderr, flush=True)


def note(text: str) -> None:
    """Prints a plain line among the progress, from the first process."""
    if rank() == 0:
        print(printable(text), file=sys.stderr, flush=True)


def format_duration(seconds: float) -> str:
    """Seconds, minutes or hours as a person would say them.

    >>> format_duration(42), format_duration(600), format_duration(7200)
    ('42 s', '10.0 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Bar:
    """A context that gives advance(), to be called once a step.

    Args:
        name: what is being done, e.g. "depth teacher".
        total: how many steps there are; None where nobody knows.
        first: steps that an earlier session has done.
        per_step: things a step, for the rate.
        things: what is counted, e.g. "images".
        shown: False shows nothing.
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
        """Counts one step more, and shows it when it is time."""
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
        """What is left of the whole chain that this is a part of, at this rate."""
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
    """The time left for the whole of a chain of trainings, from the work that is done.

    Args:
        work: {part: its work, in images to be seen}; parts that are finished already are left out.
    """

    current: ClassVar[Overall | None] = None  # the chain that this process works on

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
        """Of the whole, at a rate in images a second, so many of the part at hand being done."""
        return max(sum(self.work.values()) - done_of_part, 0.0) / max(rate, 1e-9)

    def finish(self, part: str) -> None:
        """Counts a part as done."""
        self.done += self.work.pop(part, 0.0)

    def time_left(self) -> str:
        """As ", about 12 min left for the whole run"; nothing while nothing is known."""
        remaining = sum(self.work.values())
        if self.done == 0 or remaining == 0:
            return ""
        seconds = (time.monotonic() - self.began) / self.done * remaining
        return f", about {format_duration(seconds)} left for the whole run"
