"""A run's folder: what was asked for, who works on it, how far it is, what came out.

    config.json       the settings
    environment.json  of each session: commit, command, versions, machine
    metrics.jsonl     means of the losses, one line every LOG_EVERY steps
    checkpoint.pt     while it runs: where it resumes
    *.safetensors     weights, priors
    result.json       written last: the run is finished

A folder is claimed only after everything that was asked for has been looked at: a mistyped name
leaves no folder behind. While a process works on it, it holds a lock that ends with the process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from ..errors import InputError
from .distributed import average_buffers_, rank, sum_over_ranks, wait_for_all, world_size
from .files import PathLike, read_json, write_atomically, write_json, write_text
from .progress import Bar, note
from .workers import core_count

LOG_EVERY = 50  # steps between two lines of metrics.jsonl; checkpoints fall on these steps
CHECKPOINT_SECONDS = float(os.environ.get("CMKG_CHECKPOINT_SECONDS", 20))
PACKAGES = (
    "cmkg",
    "torch",
    "lightning-fabric",
    "warp-lang",
    "numpy",
    "opencv-python-headless",
)

Config = TypeVar("Config")  # a dataclass of settings
Losses = dict[str, float]
Log = Callable[[Losses], None]


@runtime_checkable
class Stateful(Protocol):
    """What a checkpoint can hold: a model, an optimiser, a random stream."""

    def state_dict(self) -> Any:
        """Returns what is to be kept."""

    def load_state_dict(self, held: Any, /) -> Any:
        """Puts it back."""


# {name: object with state_dict and load_state_dict, or dict of tensors that are updated in place}.
State = Mapping[str, Stateful | dict[str, Tensor]]


# ---- who, when, where ----------------------------------------------------------------------------
def describe_environment() -> dict[str, Any]:
    """What a result depends on beside its settings, for environment.json."""
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
    """Of a path that leads through the user's machine the last part only."""
    return Path(argument).name if os.path.isabs(argument) else argument


def describe_commit() -> str:
    """The commit of the checkout that cmkg runs from, or why there is none."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent)
    except OSError:
        return "unknown: git is not installed"
    return done.stdout.strip() or "not a git checkout"


def installed_version(package: str) -> str:
    """The version of an installed package, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def describe_processor() -> str:
    """The processor's name."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def settings_of(config: Any) -> dict[str, Any]:
    """A dataclass of settings as JSON gives it back, without `out`: a folder may be moved."""
    settings = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    settings.pop("out", None)
    return settings


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


# ---- the lock ------------------------------------------------------------------------------------
@contextmanager
def hold_lock(path: Path, folder: Path) -> Iterator[None]:
    """Holds the operating system's lock on a file inside the block; it ends with the process.

    Args:
        path: the file, removed afterwards.
        folder: what it guards, for the sentence.

    Raises:
        InputError: another process holds it; the sentence says which.
    """
    with open(path, "a+", encoding="utf-8") as file:
        if not _try_lock(file.fileno()):
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise InputError(
                f"{folder}: {holder} works on this folder; wait for it, stop it, or give "
                "another --out"
            )
        file.truncate(0)
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        file.write(f"process {os.getpid()} on {platform.node()}, since {started},\n")
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def _try_lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return _try_lock_windows(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks: nothing can be said
        return True
    return True


def _try_lock_windows(descriptor: int) -> bool:
    try:
        import msvcrt
    except ImportError:  # neither: nothing can be said
        return True
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:
        return False
    return True


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Makes a folder and works in it alone, inside the block; of several processes the first holds.

    Raises:
        InputError: another command works on it.
    """
    if rank():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder / ".lock", folder):
        yield


# ---- the folder ----------------------------------------------------------------------------------
class Run:
    """One training's folder: refuses other settings, knows its result, resumes where it was killed.

    Making one reads the folder and writes nothing. `claim` is where the folder is made.

    Args:
        folder: where it lies; None keeps nothing on disk.
        config: a dataclass of settings, or a dict of plain values.
        title: what progress bars call it, e.g. "depth teacher".

    Raises:
        InputError: the folder holds a run with other settings, or something else.
    """

    def __init__(self, folder: PathLike | None, config: Any, title: str = "") -> None:
        self.folder = Path(folder) if folder is not None else None
        self.settings = dict(config) if isinstance(config, Mapping) else settings_of(config)
        self.title = title or type(config).__name__.lower()
        self.began = time.monotonic()
        self.seconds_before = 0.0
        if self.folder is None:
            return
        if (self.folder / "config.json").exists():
            self._refuse_other_settings(read_json(self.folder / "config.json"))
        elif (self.folder / "meta.json").exists():
            raise InputError(f"{self.folder}: holds a packed set; give another --out")

    def _refuse_other_settings(self, held: Mapping[str, Any]) -> None:
        old, new = flatten_settings(held), flatten_settings(self.settings)
        for name in [*new, *old]:
            if old.get(name) != new.get(name):
                raise InputError(
                    f"{self.folder}/config.json: this folder holds a run with {name} = "
                    f"{old.get(name)!r}, the command asks for {new.get(name)!r}; give another "
                    "--out or remove the folder"
                )

    @contextmanager
    def claim(self) -> Iterator[Run]:
        """Makes the folder and works on it alone, inside the block.

        Raises:
            InputError: another process works on it.
        """
        self.began = time.monotonic()
        if self.folder is None or rank():
            yield self
            return
        with hold_folder(self.folder):
            log = self.folder / "environment.json"
            earlier = read_json(log)["sessions"] if log.exists() else []
            write_json(log, {"sessions": [*earlier, describe_environment()]})
            write_json(self.folder / "config.json", self.settings)
            yield self

    def path(self, name: str) -> Path:
        """A file of the folder."""
        if self.folder is None:
            raise InputError("this run keeps no folder: give `out`")
        return self.folder / name

    @property
    def seconds(self) -> float:
        """Time spent on this run, over all its sessions up to the last checkpoint of each."""
        return self.seconds_before + time.monotonic() - self.began

    @property
    def result(self) -> dict[str, Any] | None:
        """What `finish` wrote, or None while the run is not finished."""
        if self.folder is None or not (self.folder / "result.json").exists():
            return None
        return read_json(self.folder / "result.json")

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Writes the result; the checkpoint is not needed any more."""
        result = result | {"seconds": round(self.seconds, 1)}
        if rank() == 0:
            write_json(self.path("result.json"), result)
            self.path("checkpoint.pt").unlink(missing_ok=True)
        wait_for_all()
        return result

    # ---- steps -----------------------------------------------------------------------------------
    def steps(
        self,
        total: int,
        state: State,
        images_per_step: int = 1,
        whole_epochs: bool = False,
    ) -> Iterator[tuple[int, Log]]:
        """Yields the steps that are left, and `log` for each: resumes, saves, logs, shows progress.

        Args:
            total: how many steps there are in all.
            state: what a checkpoint holds.
            images_per_step: for the rate that is shown.
            whole_epochs: a step is an epoch of somebody's data, which show their own progress:
                every one is logged and kept, the last one, too.

        Yields:
            The step's number, and log(losses), which keeps their means for metrics.jsonl.
        """
        first = self.resume(state)
        sums: Losses = {}
        saved = began = time.monotonic()
        log_every = 1 if whole_epochs else LOG_EVERY

        def log(losses: Losses) -> None:
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value

        with Bar(self.title, total, first, images_per_step, shown=not whole_epochs) as advance:
            for step in range(first, total):
                yield step, log
                advance()
                if (step + 1) % log_every and step + 1 < total:
                    continue
                count = step + 1 - step // log_every * log_every
                rate = images_per_step * (step + 1 - first) / (time.monotonic() - began)
                facts = {} if whole_epochs else {"images_per_s": round(rate, 1)}
                self.log_means(step + 1, sums, count, **facts)
                sums.clear()
                average_buffers_(state.values())
                due = time.monotonic() - saved > CHECKPOINT_SECONDS and step + 1 < total
                if whole_epochs or due:
                    self.save_checkpoint(step + 1, state)
                    saved = time.monotonic()

    def log_means(self, step: int, sums: Losses, count: int, **facts: object) -> Losses:
        """Logs the means of losses that were summed over `count` steps; returns them."""
        totals = sum_over_ranks(sums)
        means = {name: value / (count * world_size()) for name, value in totals.items()}
        self.log(step=step, **means, **facts)
        return means

    def log(self, **line: object) -> None:
        """Appends a line to metrics.jsonl."""
        if self.folder is None or rank():
            return
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def logged(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl."""
        path = self.folder / "metrics.jsonl" if self.folder else None
        if path is None or not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def save_checkpoint(self, step: int, state: State) -> None:
        """Keeps `state` as it is after `step` steps."""
        if self.folder is None or rank():
            return
        held: dict[str, Any] = {
            name: part.state_dict() if isinstance(part, Stateful) else part
            for name, part in state.items()
        }
        held |= {"step": step, "seconds": self.seconds}
        write_atomically(self.folder / "checkpoint.pt", lambda partial: torch.save(held, partial))

    def resume(self, state: State) -> int:
        """Puts the last checkpoint into `state`; returns how many steps it had done, 0 without one.

        Lines that the killed process logged after its last checkpoint are taken out: they come
        again.
        """
        if self.folder is None:
            return 0
        path, first = self.folder / "checkpoint.pt", 0
        if path.exists():
            held = torch.load(path, map_location="cpu", weights_only=True)
            first = held["step"]
            self.seconds_before = held["seconds"]
            _restore(state, held)
            note(f"{self.title}: resumes at step {first}")
        if rank() == 0 and (lines := self.logged()):
            kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= first]
            write_text(self.folder / "metrics.jsonl", "".join(kept))
        return first


def _restore(state: State, held: Mapping[str, Any]) -> None:
    for name, part in state.items():
        if isinstance(part, Stateful):
            part.load_state_dict(held[name])
        else:
            for key, tensor in part.items():
                tensor.copy_(held[name][key])
