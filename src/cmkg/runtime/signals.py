"""How a program ends that is asked to: SIGTERM, which clusters send, and SIGINT, Ctrl+C.

In the middle of a training the step is finished and kept first; a second signal ends it at once.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ASKED = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal has asked this program to end.

    number: of the signal. sentence: what is on disk.
    """

    def __init__(self, number: int, sentence: str = "") -> None:
        super().__init__(number, sentence)
        self.number = number
        self.sentence = sentence

    @property
    def exit_code(self) -> int:
        """128 and the signal's number: 130 of SIGINT, 143 of SIGTERM."""
        return 128 + self.number


_last: list[int] = []


def _stop_now(number: int, _frame: FrameType | None) -> None:
    _last.append(number)
    raise Stopped(number)


def received() -> int:
    """The signal that has asked this program to end; 0 where none has."""
    return _last[-1] if _last else 0


def stop_on_signals() -> None:
    """From now on SIGTERM and SIGINT raise Stopped where the program is; of the main thread."""
    if threading.current_thread() is threading.main_thread():
        for number in ASKED:
            signal.signal(number, _stop_now)


@contextmanager
def signals_end_at_once(unless: bool = False) -> Iterator[None]:
    """Inside, SIGTERM and SIGINT end the process without Python: where it waits in C++."""
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
    """Whether a signal has come, and which."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Notes a signal."""
        if self.number:
            _stop_now(number, _frame)
        self.number = number


@contextmanager
def wait_with_signals(unless: bool = False) -> Iterator[Request]:
    """Inside, the first signal is only noted, in the Request; the second raises Stopped.

    Where `stop_on_signals` was not called (in somebody else's program), signals stay as they are.

    Args:
        unless: nothing is changed; the Request stays empty.
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
    """A signal that ends the block says what is on disk, unless something inside has said so.

    Raises:
        Stopped: with what `describe` says then.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        number = getattr(stop, "number", int(signal.SIGINT))
        raise Stopped(number, getattr(stop, "sentence", "") or describe()) from None
