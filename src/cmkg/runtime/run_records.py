"""Readers for a run's files, which return valid contents or raise one clear message."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from ..errors import InputError
from .files import PathLike, read_file, read_json, read_sealed_json, stored_checksum
from .weight_files import load_sealed

MOST_LOG_BYTES = 1 << 30
DEEPEST_SETTINGS = 8
BEGIN_ANEW = "remove it to begin anew"
AGAIN = "run the command that wrote this folder again"
ABOUT_THE_RUN = ("settings", "processes", "outputs", "place")  # in a result, besides the outcome
KEPT = (".npz", ".jsonl", ".json")  # output files of a run, besides weights and priors
UNSEALED = ("config.json", "environment.json", "result.json")
PLACES = 4  # number of path parts that a result records


@lru_cache(maxsize=16)
def _adapter(kind: Any) -> Any:
    return TypeAdapter(kind)


def expect_shape(value: Any, kind: Any, path: PathLike) -> Any:
    """Returns the value as `kind`: a TypedDict, a dataclass or another annotated type.

    Raises:
        InputError: If it does not fit; the message names the file, the field and the problem.
    """
    if dataclasses.is_dataclass(kind):  # pydantic drops unknown fields
        known = {field.name for field in dataclasses.fields(kind)}
        if not isinstance(value, dict) or set(value) - known:
            unknown = sorted(set(value) - known)[0] if isinstance(value, dict) else value
            raise InputError(
                f"{path}: expected the settings of {getattr(kind, '__name__', kind)}, found "
                f"{unknown!r:.60}; {AGAIN}"
            )
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part)[:80] for part in first["loc"]) or "the whole"
        text = f"{first['input']!r:.60}"
        raise InputError(
            f"{path}: field {field!r}: {first['msg'].lower()}, found {text}; {AGAIN}"
        ) from None


def read_settings(path: PathLike) -> dict[str, Any]:
    """Returns the settings of a run's config.json: groups of plain values.

    Raises:
        InputError: If it holds something else.
    """

    def is_plain(value: Any, depth: int) -> bool:
        if isinstance(value, dict):
            return depth > 0 and all(is_plain(part, depth - 1) for part in value.values())
        if isinstance(value, list):
            return depth > 0 and all(is_plain(part, depth - 1) for part in value)
        return True

    settings = read_json(path, "the settings of a run")
    if not isinstance(settings, dict) or not is_plain(settings, DEEPEST_SETTINGS):
        raise InputError(
            f"{path}: expected the settings of a run by name, found other JSON; give another --out "
            "or remove the folder"
        )
    return settings


def read_result(path: PathLike, root: PathLike | None = None) -> dict[str, Any]:
    """Returns the contents of a finished run's result.json.

    Args:
        path: The file.
        root: A folder of several runs; the result must have been written at this path inside it.

    Raises:
        InputError: If the run is unfinished, the file was changed or moved, or another output of
            the run is missing or was changed.
    """
    result, path = read_sealed_json(path), Path(path)
    expect_outputs(path.parent, result.get("outputs"))
    if root is not None:
        _expect_place(result, path.parent, Path(root))
    return {name: value for name, value in result.items() if name not in ABOUT_THE_RUN}


def place_of(folder: PathLike) -> list[str]:
    """Returns the last parts of a run folder's path, which identify it."""
    return list(Path(folder).resolve().parts[-PLACES:])


def _expect_place(held: Mapping[str, Any], folder: Path, root: Path) -> None:
    inside = list(folder.resolve().relative_to(root.resolve()).parts[-PLACES:])
    place = held.get("place")
    if not isinstance(place, list) or (inside and place[-len(inside) :] != inside):
        written = "/".join(map(str, place)) if isinstance(place, list) else "nowhere it says"
        raise InputError(
            f"{folder}: holds what was written to {written}: results or folders were exchanged; "
            f"put them back, or {AGAIN}"
        )


def outputs_of(folder: Path) -> dict[str, str | None]:
    """Returns {name: checksum} of a run's output files, for its result."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    checksums: dict[str, str | None] = {}
    for file in files:
        if file.suffix == ".safetensors":
            checksums[file.name] = stored_checksum(file)
        elif file.suffix in KEPT and file.name not in UNSEALED:
            checksums[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return checksums


def expect_outputs(folder: Path, outputs: Any) -> None:
    """Refuses a finished run's folder with a missing or changed file.

    Raises:
        InputError: If so; the message names the file.
    """
    for name, expected in (outputs if isinstance(outputs, dict) else {}).items():
        path = folder / Path(str(name)).name
        if not path.is_file():
            raise InputError(
                f"{path}: this run wrote it, and it is gone; put it back, or remove the folder and "
                "run its stage again"
            )
        if path.suffix == ".safetensors":
            checksum = stored_checksum(path)
        else:
            data = read_file(path, "what a run wrote", BEGIN_ANEW)
            checksum = hashlib.sha256(data).hexdigest()
        if expected is not None and checksum != expected:
            raise InputError(
                f"{path}: is not the file that this run wrote (checksum); put it back, or remove "
                "the folder and run its stage again"
            )


def read_own_settings(folder: PathLike) -> dict[str, Any]:
    """Returns the settings of the run in a folder; for a finished run, those in its result.

    Raises:
        InputError: If there are none, or config.json and the result differ.
    """
    folder = Path(folder)
    settings = read_settings(folder / "config.json")
    if (folder / "result.json").exists():
        kept = read_sealed_json(folder / "result.json").get("settings")
        if kept != settings:
            raise InputError(
                f"{folder}/config.json: says other settings than result.json, which was written "
                "with the weights: it was changed; put it back, or remove the folder"
            )
    return settings


def read_log(path: PathLike) -> list[dict[str, Any]]:
    """Returns the lines of a metrics.jsonl, without a partial last line of a killed process.

    Raises:
        InputError: If a line is not a step with numbers by name.
    """
    data = read_file(path, "a log", BEGIN_ANEW, MOST_LOG_BYTES)
    lines = data[: data.rfind(b"\n") + 1].decode(errors="replace").split("\n")[:-1]
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        is_line = isinstance(entry, dict) and type(entry.get("step")) is int
        if not is_line or not all(type(value) in (int, float) for value in entry.values()):
            raise InputError(
                f"{path}: line {number}: expected a step and numbers by name, found {line!r:.60}; "
                f"{BEGIN_ANEW}"
            )
        entries.append(entry)
    return entries


def read_sessions(path: PathLike) -> list[dict[str, Any]]:
    """Returns the sessions of an environment.json.

    Raises:
        InputError: If it holds something else.
    """
    contents = read_json(path, "the sessions of a run")
    sessions = contents.get("sessions") if isinstance(contents, dict) else None
    if not isinstance(sessions, list) or not all(isinstance(session, dict) for session in sessions):
        raise InputError(f"{path}: expected the sessions of a run, found other JSON; {BEGIN_ANEW}")
    return sessions


class Checkpoint(NamedTuple):
    """The state from which a run resumes.

    sums: losses since the last line of the log. settings: those of its run. state: the model,
    optimizer and other saved objects. arithmetic: threads and kernels, which affect a sum's last
    bits.
    """

    step: int
    seconds: float
    sums: dict[str, float]
    settings: dict[str, Any]
    processes: int
    state: dict[str, Any]
    arithmetic: dict[str, Any]


def read_checkpoint(path: PathLike) -> Checkpoint:
    """Reads a run's checkpoint.pt.

    Raises:
        InputError: If it was changed, or holds something else.
    """
    contents = load_sealed(path, "a run's checkpoint", BEGIN_ANEW)
    kinds = {
        "step": int,
        "seconds": float,
        "sums": dict,
        "settings": dict,
        "processes": int,
        "state": dict,
        "arithmetic": dict,
    }
    fields = contents if isinstance(contents, dict) else {}
    for name, kind in kinds.items():
        if type(fields.get(name)) is not kind:
            raise InputError(
                f"{path}: field {name!r}: expected {kind.__name__}, found "
                f"{type(fields.get(name)).__name__}; {BEGIN_ANEW}"
            )
    checkpoint = Checkpoint(**{name: fields[name] for name in kinds})
    numbers = [checkpoint.seconds, *checkpoint.sums.values()]
    if checkpoint.step < 0 or not all(isinstance(n, float) and math.isfinite(n) for n in numbers):
        raise InputError(f"{path}: expected a step, its time and losses; {BEGIN_ANEW}")
    return checkpoint
