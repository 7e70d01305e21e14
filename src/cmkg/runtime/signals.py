"""Handles requests to stop: SIGTERM, which clusters send, and SIGINT (Ctrl+C).

During training, the step is finished and saved first; a second signal ends the program at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ASKED = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """Raised when a signal asks this program to stop.

    number: the signal's number. sentence: what is on disk.
    """

    def __init__(self, number: int, sentence: str = "") -> None:
        super().__init__(number, sentence)
        self.number = number
        self.sentence = sentence

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.number


_last: list[int] = []


def _stop_now(number: int, _frame: FrameType | None) -> None:
    _last.append(number)
    raise Stopped(number)


def received() -> int:
    """Returns the signal that has asked this program to stop; 0 if none has."""
    return _last[-1] if _last else 0


def stop_on_signals() -> None:
    """Makes SIGTERM and SIGINT raise Stopped from now on; only in the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number in ASKED:
            signal.signal(number, _stop_now)


@contextmanager
def signals_end_at_once(unless: bool = False) -> Iterator[None]:
    """Lets SIGTERM and SIGINT kill the process directly in the block, where it waits in C++."""
    if unless or signal.getsignal(signal.SIGTERM) is not _stop_now:
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ASKED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Request:
    """Whether a signal has arrived, and which one."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Records a signal."""
        if self.number:
            _stop_now(number, _frame)
        self.number = number


@contextmanager
def wait_with_signals(unless: bool = False) -> Iterator[Request]:
    """Records the first signal in the Request inside the block; the second raises Stopped.

    Without `stop_on_signals` (in another program), signal handling is left unchanged.

    Args:
        unless: If True, nothing changes and the Request stays empty.
    """
    request = Request()
    if unless or signal.getsignal(signal.SIGTERM) is not _stop_now:
        yield request
        return
    for number in ASKED:
        signal.signal(number, request)
    try:
        yield request
    finally:
        for number in ASKED:
            signal.signal(number, _stop_now)


@contextmanager
def tell_on_stop(describe: Callable[[], str]) -> Iterator[None]:
    """Adds what is on disk to a Stopped that ends the block, unless it already says so.

    Raises:
        Stopped: With the text that `describe` returns.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        number = getattr(stop, "number", int(signal.SIGINT))
        raise Stopped(number, getattr(stop, "sentence", "") or describe()) from None
