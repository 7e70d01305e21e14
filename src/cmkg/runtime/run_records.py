"""What a run's files may hold: each reader gives what is expected, or refuses in one sentence."""

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
ABOUT_THE_RUN = ("settings", "processes", "outputs", "place")  # in a result, beside what came out
KEPT = (".npz", ".jsonl", ".json")  # of what a run wrote, beside weights and priors
UNSEALED = ("config.json", "environment.json", "result.json")
PLACES = 4  # parts of a folder's path that a result remembers


@lru_cache(maxsize=16)
def _adapter(kind: Any) -> Any:
    return TypeAdapter(kind)


def expect_shape(value: Any, kind: Any, path: PathLike) -> Any:
    """The value as `kind`: a TypedDict, a dataclass or another annotated type.

    Raises:
        InputError: it is something else; names the file, the field, and what is wrong with it.
    """
    if dataclasses.is_dataclass(kind):  # pydantic leaves out what it does not know
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
        found = f"{first['input']!r:.60}"
        raise InputError(
            f"{path}: field {field!r}: {first['msg'].lower()}, found {found}; {AGAIN}"
        ) from None


def read_settings(path: PathLike) -> dict[str, Any]:
    """The settings of a run's config.json: groups of plain values.

    Raises:
        InputError: it holds something else.
    """

    def is_plain(value: Any, depth: int) -> bool:
        if isinstance(value, dict):
            return depth > 0 and all(is_plain(part, depth - 1) for part in value.values())
        if isinstance(value, list):
            return depth > 0 and all(is_plain(part, depth - 1) for part in value)
        return True

    held = read_json(path, "the settings of a run")
    if not isinstance(held, dict) or not is_plain(held, DEEPEST_SETTINGS):
        raise InputError(
            f"{path}: expected the settings of a run by name, found other JSON; give another --out "
            "or remove the folder"
        )
    return held


def read_result(path: PathLike, root: PathLike | None = None) -> dict[str, Any]:
    """What a finished run's result.json says.

    Args:
        path: the file.
        root: a folder of several runs: the result must be of this very place in it.

    Raises:
        InputError: the run is not finished, the file was changed, lies in another place than it was
            written to, or what the run wrote beside it is gone or was changed.
    """
    held, path = read_sealed_json(path), Path(path)
    expect_outputs(path.parent, held.get("outputs"))
    if root is not None:
        _expect_place(held, path.parent, Path(root))
    return {name: value for name, value in held.items() if name not in ABOUT_THE_RUN}


def place_of(folder: PathLike) -> list[str]:
    """Where a run lies: the last parts of its folder's path."""
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
    """{name: checksum} of what a run has written, for its result."""
    files = [one for one in sorted(folder.iterdir()) if one.is_file()]
    found: dict[str, str | None] = {}
    for one in files:
        if one.suffix == ".safetensors":
            found[one.name] = stored_checksum(one)
        elif one.suffix in KEPT and one.name not in UNSEALED:
            found[one.name] = hashlib.sha256(one.read_bytes()).hexdigest()
    return found


def expect_outputs(folder: Path, outputs: Any) -> None:
    """Refuses a finished run's folder in which a file is gone or another than the run wrote.

    Raises:
        InputError: names the file.
    """
    for name, expected in (outputs if isinstance(outputs, dict) else {}).items():
        path = folder / Path(str(name)).name
        if not path.is_file():
            raise InputError(
                f"{path}: this run wrote it, and it is gone; put it back, or remove the folder and "
                "run its stage again"
            )
        if path.suffix == ".safetensors":
            found = stored_checksum(path)
        else:
            data = read_file(path, "what a run wrote", BEGIN_ANEW)
            found = hashlib.sha256(data).hexdigest()
        if expected is not None and found != expected:
            raise InputError(
                f"{path}: is not the file that this run wrote (checksum); put it back, or remove "
                "the folder and run its stage again"
            )


def read_own_settings(folder: PathLike) -> dict[str, Any]:
    """The settings of the run in a folder; where it is finished, as its result says.

    Raises:
        InputError: there are none, or config.json says others than the result.
    """
    folder = Path(folder)
    found = read_settings(folder / "config.json")
    if (folder / "result.json").exists():
        kept = read_sealed_json(folder / "result.json").get("settings")
        if kept != found:
            raise InputError(
                f"{folder}/config.json: says other settings than result.json, which was written "
                "with the weights: it was changed; put it back, or remove the folder"
            )
    return found


def read_log(path: PathLike) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; one that a killed process left half written is left out.

    Raises:
        InputError: a line is no step with numbers by name.
    """
    data = read_file(path, "a log", BEGIN_ANEW, MOST_LOG_BYTES)
    lines = data[: data.rfind(b"\n") + 1].decode(errors="replace").split("\n")[:-1]
    found = []
    for number, line in enumerate(lines, 1):
        try:
            held = json.loads(line)
        except (ValueError, RecursionError):
            held = None
        is_line = isinstance(held, dict) and type(held.get("step")) is int
        if not is_line or not all(type(value) in (int, float) for value in held.values()):
            raise InputError(
                f"{path}: line {number}: expected a step and numbers by name, found {line!r:.60}; "
                f"{BEGIN_ANEW}"
            )
        found.append(held)
    return found


def read_sessions(path: PathLike) -> list[dict[str, Any]]:
    """The sessions of an environment.json.

    Raises:
        InputError: it holds something else.
    """
    held = read_json(path, "the sessions of a run")
    sessions = held.get("sessions") if isinstance(held, dict) else None
    if not isinstance(sessions, list) or not all(isinstance(one, dict) for one in sessions):
        raise InputError(f"{path}: expected the sessions of a run, found other JSON; {BEGIN_ANEW}")
    return sessions


class Checkpoint(NamedTuple):
    """Where a run goes on.

    sums: losses since the last line of the log. settings: whose it is. state: of model, optimiser
    and what else the run keeps. arithmetic: threads and kernels, which decide a sum's last bits.
    """

    step: int
    seconds: float
    sums: dict[str, float]
    settings: dict[str, Any]
    processes: int
    state: dict[str, Any]
    arithmetic: dict[str, Any]


def read_checkpoint(path: PathLike) -> Checkpoint:
    """A run's checkpoint.pt.

    Raises:
        InputError: it was changed, or holds something else.
    """
    held = load_sealed(path, "a run's checkpoint", BEGIN_ANEW)
    kinds = {
        "step": int,
        "seconds": float,
        "sums": dict,
        "settings": dict,
        "processes": int,
        "state": dict,
        "arithmetic": dict,
    }
    fields = held if isinstance(held, dict) else {}
    for name, kind in kinds.items():
        if type(fields.get(name)) is not kind:
            raise InputError(
                f"{path}: field {name!r}: expected {kind.__name__}, found "
                f"{type(fields.get(name)).__name__}; {BEGIN_ANEW}"
            )
    found = Checkpoint(**{name: fields[name] for name in kinds})
    numbers = [found.seconds, *found.sums.values()]
    if found.step < 0 or not all(isinstance(n, float) and math.isfinite(n) for n in numbers):
        raise InputError(f"{path}: expected a step, its time and losses; {BEGIN_ANEW}")
    return found
