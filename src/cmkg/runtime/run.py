"""A run's folder: settings, lock, checkpoints, logs and result.

    config.json       the settings
    environment.json  each session's commit, command, versions and machine
    metrics.jsonl     means of the losses, one line every LOG_EVERY steps
    checkpoint.pt     the point to resume from, while the run is unfinished
    *.safetensors     weights, priors
    result.json       written last: the run is finished

A folder is claimed only after all settings have been checked, so a mistyped name leaves no folder
behind. A working process holds a lock that ends with it. Checkpoint and result also hold the
settings and checksums; files that were changed or belong to another run are refused.

One file: resuming depends on the order in which these files are written.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ..errors import InputError
from .distributed import (
    average_buffers_,
    code_fingerprint,
    describe_lost_contact,
    expect_same_on_ranks,
    gather_lists,
    is_lost_contact,
    max_over_ranks,
    on_every_rank,
    sum_over_ranks,
    wait_for_all,
)
from .environment import describe_arithmetic, describe_environment
from .files import (
    BROKEN,
    PathLike,
    append_line,
    first_line,
    read_sealed_json,
    write_json,
    write_sealed_json,
    write_text,
)
from .locks import expect_own_folder, hold_folder
from .progress import Bar, note
from .ranks import rank, world_size
from .run_records import (
    BEGIN_ANEW,
    Checkpoint,
    outputs_of,
    place_of,
    read_checkpoint,
    read_log,
    read_result,
    read_sessions,
    read_settings,
)
from .settings import flatten_settings, settings_of
from .signals import Stopped, tell_on_stop, wait_with_signals
from .weight_files import save_sealed

MARKS = (
    "config.json",
    "environment.json",
    "checkpoint.pt",
    "result.json",
)  # files that mark a run's folder
OF_INPUT = "checksum of "  # followed by a setting's name on the command line
LOG_EVERY = 50  # steps between lines of metrics.jsonl
CHECKPOINT_SECONDS = 20.0
Losses = dict[str, float]
Log = Callable[[Losses], None]


@runtime_checkable
class Stateful(Protocol):
    """An object that a checkpoint can hold: a model, an optimizer, a random stream."""

    def state_dict(self) -> Any:
        """Returns the state to save."""

    def load_state_dict(self, held: Any, /) -> Any:
        """Restores a saved state."""


# {name: object with state_dict and load_state_dict, or dict of tensors that are updated in place}.
State = Mapping[str, Stateful | dict[str, Tensor]]


def checkpoint_seconds() -> float:
    """Seconds between two checkpoints: CMKG_CHECKPOINT_SECONDS, or 20.

    Raises:
        InputError: If it is not a number from 0.
    """
    text = os.environ.get("CMKG_CHECKPOINT_SECONDS") or str(CHECKPOINT_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f"CMKG_CHECKPOINT_SECONDS: expected seconds from 0, got {text!r:.40}")
    return seconds


# ---- the folder ----------------------------------------------------------------------------------
class Run:
    """One training's folder: refuses other settings, knows its result, resumes where it was killed.

    The constructor reads the folder and writes nothing; `claim` creates the folder. Processes that
    train together construct it together.

    Args:
        folder: The folder; None keeps nothing on disk.
        config: A dataclass of settings, or a dict of plain values.
        title: The name shown in progress bars, e.g. "depth teacher".
        own: Names of settings that may differ between processes, such as their share of the data.
        inputs: Checksums of the inputs, by name; other inputs make it another run.

    Raises:
        InputError: If the folder holds a run with other settings, a changed result, or other files,
            or if processes were started with different settings.
    """

    def __init__(
        self,
        folder: PathLike | None,
        config: Any,
        title: str = "",
        own: tuple[str, ...] = (),
        inputs: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = Path(folder) if folder is not None else None
        self.settings = dict(config) if isinstance(config, Mapping) else settings_of(config)
        if inputs:
            self.settings["inputs"] = dict(inputs)
        for name in own:
            if world_size() > 1:
                self.settings[name] = gather_lists([self.settings[name]])
        self.title = title or type(config).__name__.lower()
        self.checkpoint_seconds = checkpoint_seconds()
        if not isinstance(config, Mapping):
            flat = flatten_settings(dataclasses.asdict(config))
            self.checkpoint_seconds = flat.get("checkpoint_seconds", self.checkpoint_seconds)
        self.began = time.monotonic()
        self.seconds_before = 0.0
        self._result: dict[str, Any] | None = None
        self._on_disk = "what was finished before is on disk"
        on_every_rank(self._look)
        facts: dict[str, Any] = flatten_settings(self.settings)
        if world_size() > 1:
            facts |= {"the folder": str(self.folder and self.folder.resolve())}
            facts |= {"the code": code_fingerprint(), "a finished result": self._result}
            facts |= {"a checkpoint": self._has("checkpoint.pt")}
        expect_same_on_ranks(facts)

    def _has(self, name: str) -> bool:
        return self.folder is not None and (self.folder / name).exists()

    def _look(self) -> None:
        """Reads the folder's files."""
        if self.folder is None:
            return
        if self._has("config.json"):
            path = self.folder / "config.json"
            self._refuse_other_settings(read_settings(path), path)
        elif self._has("meta.json"):
            raise InputError(f"{self.folder}: holds a packed set; give another --out")
        else:
            expect_own_folder(self.folder, None, MARKS)
        if self._has("result.json"):
            path = self.folder / "result.json"
            self._refuse_other_settings(read_sealed_json(path).get("settings"), path)
            self._result = read_result(path)

    def _refuse_other_settings(self, held: Any, path: Path) -> None:
        """Refuses a file of a run with other settings, even if config.json is lost or edited.

        Args:
            held: The settings in the file.
            path: The file.
        """
        if not isinstance(held, dict):
            raise InputError(f"{path}: says no settings; {BEGIN_ANEW}")
        old, new = flatten_settings(held), flatten_settings(self.settings)
        for name in [*new, *old]:
            checksum_name = f"{OF_INPUT}{name.replace('_', '-')}"
            if checksum_name in old and old.get(checksum_name) == new.get(checksum_name):
                continue  # the same contents at another path
            if name.startswith(OF_INPUT) and name not in new:
                continue  # it is missing: its reader reports that
            if old.get(name) != new.get(name):
                raise InputError(
                    f"{path}: this folder holds a run with {name} = "
                    f"{old.get(name)!r}, the command asks for {new.get(name)!r}; give another "
                    "--out or remove the folder"
                )

    @contextmanager
    def claim(self) -> Iterator[Run]:
        """Creates the folder and holds it exclusively inside the block.

        Raises:
            InputError: If another process works on it, or another process of this job has ended or
                hangs; the message says what is on disk.
            Stopped: If a signal stopped the program; the message says what is on disk.
        """
        self.began = time.monotonic()
        if self.folder is None:
            yield self
            return
        with ExitStack() as stack:
            on_every_rank(lambda: self._open(stack))
            try:
                with tell_on_stop(lambda: f"{self.folder}: {self._on_disk}"):
                    yield self
            except RuntimeError as error:
                if not is_lost_contact(error):
                    raise
                raise InputError(
                    f"{describe_lost_contact(error)}; {self.folder}: {self._on_disk}; start the "
                    "same command again"
                ) from None

    def _open(self, stack: ExitStack) -> None:
        if self.folder is None or rank():
            return
        stack.enter_context(hold_folder(self.folder))
        before = self._result
        self._look()  # another process may have written here since
        if self._result != before:
            raise InputError(f"{self.folder}: was finished by another process; start again")
        if self._has("checkpoint.pt") and not self._has("config.json"):
            path = self.folder / "checkpoint.pt"
            self._refuse_other_settings(read_checkpoint(path).settings, path)
        log = self.folder / "environment.json"
        earlier = read_sessions(log) if log.exists() else []
        write_json(log, {"sessions": [*earlier, describe_environment()]})
        write_json(self.folder / "config.json", self.settings)

    def path(self, name: str) -> Path:
        """Returns the path of a file in the folder."""
        if self.folder is None:
            raise InputError("this run keeps no folder: give `out`")
        return self.folder / name

    @property
    def seconds(self) -> float:
        """Time spent on this run, over all its sessions up to the last checkpoint of each."""
        return self.seconds_before + time.monotonic() - self.began

    @property
    def result(self) -> dict[str, Any] | None:
        """The result that `finish` wrote, or None while the run is unfinished."""
        return self._result

    def finish(self, result: dict[str, Any]) -> dict[str, Any]:
        """Writes the result and removes the checkpoint."""
        result = json.loads(json.dumps(result | {"seconds": round(self.seconds, 1)}))
        if rank() == 0:
            folder = self.path("result.json").parent
            facts: dict[str, Any] = {"settings": self.settings, "processes": world_size()}
            facts |= {"outputs": outputs_of(folder), "place": place_of(folder)}
            write_sealed_json(self.path("result.json"), result | facts)
            self.path("checkpoint.pt").unlink(missing_ok=True)
        wait_for_all()
        self._result = result
        return result

    # ---- steps -----------------------------------------------------------------------------------
    def steps(
        self,
        total: int,
        state: State,
        images_per_step: int = 1,
        whole_epochs: bool = False,
    ) -> Generator[tuple[int, Log]]:
        """Yields the remaining steps; resumes, saves checkpoints, logs and shows progress.

        Args:
            total: The total number of steps.
            state: The objects that a checkpoint holds.
            images_per_step: Images per step, for the displayed rate.
            whole_epochs: If True, a step is an epoch of the user's data with its own progress bar;
                every step is logged and saved, including the last.

        Yields:
            The step's number, and log(losses), which accumulates their means for metrics.jsonl.

        Raises:
            Stopped: If a signal stopped the program; the step is finished and saved first.
        """
        sums: Losses = {}
        first = self.resume(state, sums)
        self._note_on_disk(first, total)
        saved = began = time.monotonic()
        log_every = 1 if whole_epochs else LOG_EVERY

        def log(losses: Losses) -> None:
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value

        with (
            wait_with_signals(unless=whole_epochs) as request,
            Bar(self.title, total, first, images_per_step, shown=not whole_epochs) as advance,
        ):
            for step in range(first, total):
                yield step, log
                advance()
                done = step + 1
                average_buffers_(state.values())
                is_late = time.monotonic() - saved > self.checkpoint_seconds
                signal, due = max_over_ranks(request.number, float(is_late or whole_epochs))
                if done % log_every == 0 or done == total:
                    count = done - step // log_every * log_every
                    rate = images_per_step * (done - first) / (time.monotonic() - began)
                    facts = {} if whole_epochs else {"images_per_s": round(rate, 1)}
                    self.log_means(done, sums, count, **facts)
                    sums.clear()
                if signal or (due and (done < total or whole_epochs)):
                    self.save_checkpoint(done, state, sums)
                    self._note_on_disk(done, total)
                    saved = time.monotonic()
                if signal:
                    raise self._stopped(int(signal))
        if request.number:  # the signal came after the last step
            raise self._stopped(request.number)

    def _stopped(self, number: int) -> Stopped:
        where = f"{self.folder}: " if self.folder else ""
        return Stopped(number, f"{where}{self._on_disk}")

    def _note_on_disk(self, step: int, total: int) -> None:
        self._on_disk = f"step {step} of {total} is on disk" if step else "no step is on disk yet"
        if self.folder is None:
            self._on_disk = "nothing is kept without a folder"

    def log_means(self, step: int, sums: Losses, count: int, **facts: object) -> Losses:
        """Logs and returns the means of losses that were summed over `count` steps."""
        totals = sum_over_ranks(sums)
        means = {name: value / (count * world_size()) for name, value in totals.items()}
        self.log(step=step, **means, **facts)
        return means

    def log(self, **line: object) -> None:
        """Appends a line to metrics.jsonl."""
        if self.folder is None or rank():
            return
        append_line(self.folder / "metrics.jsonl", json.dumps(line))

    def logged(self) -> list[dict[str, Any]]:
        """Returns the lines of metrics.jsonl."""
        return read_log(self.path("metrics.jsonl")) if self._has("metrics.jsonl") else []

    def save_checkpoint(self, step: int, state: State, sums: Losses | None = None) -> None:
        """Saves `state` after `step` steps; all processes call it together.

        Args:
            step: The number of finished steps.
            state: The objects to save.
            sums: Summed losses since the last line of the log.
        """
        if self.folder is None:
            return
        checkpoint = Checkpoint(
            step=step,
            seconds=self.seconds,
            sums=sum_over_ranks(sums or {}),
            settings=self.settings,
            processes=world_size(),
            arithmetic=describe_arithmetic(),
            state={
                name: part.state_dict() if isinstance(part, Stateful) else part
                for name, part in state.items()
            },
        )
        if rank() == 0:
            save_sealed(self.folder / "checkpoint.pt", checkpoint._asdict())

    def resume(self, state: State, sums: Losses | None = None) -> int:
        """Loads the last checkpoint into `state`; returns its number of steps, 0 without one.

        Log lines after the last checkpoint are removed, because those steps run again.

        Args:
            state: The objects that the checkpoint holds.
            sums: Receives the summed losses since the last line of the log.

        Raises:
            InputError: If the checkpoint was changed, or belongs to another run or another number
                of processes.
        """
        if self.folder is None:
            return 0
        first = on_every_rank(lambda: self._restore(state, sums))
        expect_same_on_ranks({"its checkpoint at step": first})
        if first:
            note(f"{self.title}: resumes at step {first}")
        on_every_rank(lambda: self._trim_log(first))
        return first

    def _trim_log(self, first: int) -> None:
        if rank() == 0 and (lines := self.logged()):
            kept = [json.dumps(line) + "\n" for line in lines if line["step"] <= first]
            write_text(self.path("metrics.jsonl"), "".join(kept))

    def _restore(self, state: State, sums: Losses | None) -> int:
        path = self.path("checkpoint.pt")
        if not path.exists():
            return 0
        checkpoint = read_checkpoint(path)
        self._refuse_other_settings(checkpoint.settings, path)
        if checkpoint.processes != world_size():
            raise InputError(
                f"{path}: was written by {checkpoint.processes} process(es), this job has "
                f"{world_size()}: samples are shared out otherwise, and the weights would be "
                f"others; start {checkpoint.processes}, or {BEGIN_ANEW}"
            )
        try:
            for name, part in state.items():
                if isinstance(part, Stateful):
                    part.load_state_dict(checkpoint.state[name])
                else:
                    for key, tensor in part.items():
                        tensor.copy_(checkpoint.state[name][key])
        except BROKEN as error:
            raise InputError(
                f"{path}: does not fit this run ({type(error).__name__}: {first_line(error)}); "
                f"{BEGIN_ANEW}"
            ) from None
        now = describe_arithmetic()
        others = [name for name in now if checkpoint.arithmetic.get(name, now[name]) != now[name]]
        if others and not rank():
            note(
                f"{path}: was written with {others[0]} = {checkpoint.arithmetic[others[0]]}, this "
                f"session has {now[others[0]]}: the result may differ from the unbroken run's in "
                "the last bits"
            )
        self.seconds_before = checkpoint.seconds
        if sums is not None and rank() == 0:
            sums.update(checkpoint.sums)
        return checkpoint.step
