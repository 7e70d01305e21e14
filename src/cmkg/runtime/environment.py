"""Records what a result depends on besides its settings: code, versions, machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .workers import core_count

PACKAGES = (
    "cmkg",
    "torch",
    "lightning-fabric",
    "warp-lang",
    "numpy",
    "opencv-python-headless",
)


def describe_environment() -> dict[str, Any]:
    """Returns what a result depends on besides its settings, for environment.json."""
    program = Path(sys.argv[0]).name.replace("__main__.py", "cmkg")  # `python -m cmkg` is `cmkg`
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([program, *map(_without_home, sys.argv[1:])]),
        "commit": describe_commit(),
        "python": platform.python_version(),
        "versions": {package: installed_version(package) for package in PACKAGES},
        "machine": {
            "processor": describe_processor(),
            "cores": core_count(),
            "threads": torch.get_num_threads(),
            "gpu": gpu,
        },
    }


def _without_home(argument: str) -> str:
    """Returns only the last part of an absolute path, to omit the user's folders."""
    return Path(argument).name if os.path.isabs(argument) else argument


def describe_commit() -> str:
    """Returns the commit of the checkout that cmkg runs from, or why there is none."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except OSError:
        return "unknown: git is not installed"
    return done.stdout.strip() or "not a git checkout"


def installed_version(package: str) -> str:
    """Returns the version of an installed package, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def describe_processor() -> str:
    """Returns the processor's name."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def describe_arithmetic() -> dict[str, Any]:
    """Returns what determines the last bits of a sum: threads, kernels, the device."""
    facts: dict[str, Any] = {
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts
