"""Says in one sentence what this machine lacks for `make demo`, before anything is installed.

Runs on any Python from 3.6.
"""

import os
import shutil
import sys

NEEDED = (3, 11)
NEEDED_BYTES = 4 * 10**9  # the virtual environment takes 2, the demo 1


def missing():
    """The first thing that is missing, with what to do; empty where nothing is."""
    if sys.version_info[:2] < NEEDED:
        found = sys.version.split()[0]
        return (
            f"Python {NEEDED[0]}.{NEEDED[1]} or newer is needed, this is {found}: install one and "
            "give it, as in `make demo PYTHON=python3.11`"
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return (
            "this Python cannot make virtual environments: install its venv package (on Debian "
            "and Ubuntu: apt install python3-venv)"
        )
    here = os.getcwd()
    if not os.access(here, os.W_OK):
        return f"{here} cannot be written: copy the project to a folder of yours"
    free = shutil.disk_usage(here).free
    if free < NEEDED_BYTES and not os.path.exists(".venv/installed"):
        return (
            f"{here} has {free / 1e9:.1f} GB left, {NEEDED_BYTES / 1e9:.0f} are needed: free some, "
            "or use another disk"
        )
    return ""


if __name__ == "__main__":
    sentence = missing()
    if sentence:
        sys.stderr.write(f"cmkg: {sentence}\n")
        sys.exit(2)
