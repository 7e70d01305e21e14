"""Exit codes, and one-sentence messages for errors that are not bugs.

0: done. 1: training diverged. 2: invalid input. 130, 143: stopped by SIGINT or SIGTERM. Bugs keep
their traceback.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import Diverged, InputError
from ..runtime.text import printable

if TYPE_CHECKING:
    from ..runtime.signals import Stopped

TRAINING_MODULES = (
    "torch",
    "scipy",
    "pydantic",
    "matplotlib",
    "jinja2",
    "huggingface_hub",
    "lightning_fabric",
    "warp",
    "plyfile",
)  # from the extra `train`
NO_MEMORY = (
    "this machine has not enough memory for it; give a smaller --batch, --px or --width, or fewer "
    "--workers"
)
FULL_DISK = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)


def end_in_one_sentence(program: Callable[[], object]) -> None:
    """Runs a program and reports errors of the user or the machine in one sentence.

    The exit code is then 2; 1 if training diverged; 130 or 143 if stopped by SIGINT or SIGTERM.
    Bugs keep their traceback.
    """
    from ..runtime.signals import Stopped, received, stop_on_signals

    warnings.showwarning = _show_warning
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - they may be closed
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        stop_on_signals()
        program()
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has closed the pipe
        _leave_quietly()
    except InputError as error:
        _exit(str(error))
    except Diverged as error:
        _exit(str(error), 1)
    except OSError as error:
        _exit(_describe_os_error(error))
    except ModuleNotFoundError as error:
        if error.name not in TRAINING_MODULES:
            _exit_if_stopped(received())
            raise
        _exit(
            f"this command needs {error.name}, which is not installed: install cmkg with its extra "
            "'train' (in a checkout: pip install '.[train]')"
        )
    except MemoryError:
        _exit(NO_MEMORY)
    except RuntimeError as error:
        if any(words in str(error) for words in ("allocate memory", "out of memory")):
            _exit(NO_MEMORY)
        if not _is_lost_contact(error):
            _exit_if_stopped(received())
            raise
        from ..runtime.distributed import describe_lost_contact

        _exit(f"{describe_lost_contact(error)}; start the same command again")
    except KeyboardInterrupt as stop:
        _exit(*_describe_stop(stop if isinstance(stop, Stopped) else Stopped(signal.SIGINT)))
    except (ImportError, SystemError):
        _exit_if_stopped(received())
        raise


def _exit_if_stopped(number: int) -> None:
    """Exits if a signal came during an import, which libraries report as their own error."""
    from ..runtime.signals import Stopped

    if number:
        _exit(*_describe_stop(Stopped(number)))


def _describe_stop(stop: Stopped) -> tuple[str, int]:
    """Returns the message and the exit code."""
    name = signal.Signals(stop.number).name
    if not stop.sentence:
        return f"stopped by {name}", stop.exit_code
    going_on = "the same command goes on from there"
    return f"stopped by {name}; {stop.sentence}; {going_on}", stop.exit_code


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(printable(f"cmkg: note: {message}"), file=sys.stderr)


def _describe_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    hint = ""
    if error.errno == errno.ELOOP:
        hint = "; links lead in a circle there, give the file itself"
    if error.errno in FULL_DISK:
        hint = "; free space or choose another --out, then run the same command again"
    return f"{where}{error.strerror or error}{hint}"


def _exit(sentence: str, code: int = 2) -> None:
    with suppress(OSError, ValueError):  # standard error may be closed: the exit code is enough
        print(printable(f"cmkg: {sentence}"), file=sys.stderr, flush=True)
    sys.exit(code)


def _leave_quietly() -> None:
    """Exits with code 0, without Python's error on flushing a closed pipe."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.exit(0)


def _is_lost_contact(error: RuntimeError) -> bool:
    if "torch" not in sys.modules:
        return False
    from ..runtime.distributed import is_lost_contact

    return is_lost_contact(error)
