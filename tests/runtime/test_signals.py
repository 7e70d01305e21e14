import os
import signal

import pytest

from cmkg.runtime import signals
from cmkg.runtime.signals import Stopped, stop_on_signals, tell_on_stop, wait_with_signals


@pytest.fixture(autouse=True)
def _own_handlers():
    """Python's own handlers again after the test."""
    before = {number: signal.getsignal(number) for number in signals.ASKED}
    stop_on_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    signals._last.clear()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_where_the_program_is(number, code):
    with pytest.raises(Stopped) as stop:
        os.kill(os.getpid(), number)
    assert stop.value.exit_code == code
    assert signals.received() == number


def test_what_is_on_disk_is_told():
    with pytest.raises(Stopped) as stop, tell_on_stop(lambda: "step 3 is on disk"):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.value.sentence == "step 3 is on disk"


def test_in_a_step_a_signal_waits_and_the_second_one_does_not():
    with wait_with_signals() as request:
        assert not request.number
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.number == signal.SIGTERM  # the step is finished first
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
