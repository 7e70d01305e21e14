"""Validates what a report reads from run folders: types, ranges and names.

A folder may come from an untrusted source: no name in it may lead out of it, and no text may be
longer than a page can show.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from jaxtyping import Float
from pydantic import ConfigDict, Field, StringConstraints, with_config
from typing_extensions import TypedDict

from ...errors import InputError
from ...runtime.files import PathLike, read_arrays, read_sealed_json
from ...runtime.run_records import AGAIN, expect_shape, read_result, read_sessions
from ..metrics import THRESHOLDS_MM
from ..skeleton import BONES

JOINTS = len(BONES) + 1
MOST_ROWS = 1000

Name = Annotated[str, StringConstraints(pattern=r"^\w[\w.+-]*$", max_length=80)]
StageName = Annotated[str, StringConstraints(pattern=r"^\w[\w+-]*(/\w[\w.+-]*)?$", max_length=120)]
Text = Annotated[str, StringConstraints(max_length=300)]
PathText = Annotated[str, StringConstraints(max_length=4096)]
Number = Annotated[float, Field(allow_inf_nan=False)]
FromZero = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Frame = Annotated[int, Field(ge=0)]
Curve = Annotated[list[Share], Field(min_length=len(THRESHOLDS_MM), max_length=len(THRESHOLDS_MM))]

MORE = with_config(ConfigDict(extra="allow"))


@MORE
class Histogram(TypedDict):
    """Counts of a network's weights (Fig. 5)."""

    edges: Annotated[list[Number], Field(min_length=201, max_length=201)]
    counts: Annotated[list[FromZero], Field(min_length=200, max_length=200)]
    near_zero: Share
    rms: FromZero


@MORE
class Score(TypedDict):
    """result.json of a stage that was scored."""

    epe_mm: FromZero
    auc_20_50: Share
    pck: Curve
    epe_per_joint_mm: Annotated[list[FromZero], Field(min_length=JOINTS, max_length=JOINTS)]
    seconds: NotRequired[FromZero]


@MORE
class TargetScore(Score):
    """result.json of a training on the target."""

    weights: Histogram


@MORE
class PaperScore(Score):
    """result.json of a row of the paper's tables."""

    weights: NotRequired[Histogram]


class RowFacts(TypedDict):
    """A trained row of a plan."""

    name: Name
    label: Text
    home: NotRequired[Text]


class BlockFacts(TypedDict):
    """Frames for fitting and for validation."""

    fit: tuple[Frame, Frame]
    validation: tuple[Frame, Frame]


@MORE
class PlanSettings(TypedDict):
    """Settings of a `cmkg run` that its page shows."""

    target: Text
    labels: Frame
    source_epochs: Frame
    seeds: Annotated[list[Frame], Field(min_length=1, max_length=MOST_ROWS)]
    stops: list[Frame]
    tries: list[Number]
    test_time_rotations_deg: Annotated[list[Number], Field(min_length=1)]
    out: NotRequired[PathText]
    root: NotRequired[PathText]
    backgrounds: NotRequired[list[PathText]]


Plain = PathText | bool | int | Number | None | list[PathText | bool | int | Number | None]


class Plan(TypedDict):
    """rows.json: the parts of a `cmkg run`."""

    rows: Annotated[list[RowFacts], Field(min_length=1, max_length=MOST_ROWS)]
    stages: Annotated[list[Name], Field(min_length=1, max_length=MOST_ROWS)]
    blocks: BlockFacts
    settings: dict[Name, Plain | dict[Name, Plain]]


class Tried(TypedDict):
    """tried.json: a setting that was chosen on validation frames."""

    setting: NotRequired[Name]
    validation_epe_mm: NotRequired[dict[Text, FromZero]]
    chosen: Number
    at_the_edge: NotRequired[bool]


@MORE
class Machine(TypedDict):
    """The machine on which a session ran."""

    gpu: Text | None
    processor: Text


@MORE
class Session(TypedDict):
    """One start of a command."""

    started: Text
    command: Annotated[str, StringConstraints(max_length=10_000)]
    commit: Text
    python: NotRequired[Text]
    versions: NotRequired[dict[Text, Text]]
    machine: Machine


class Environment(TypedDict):
    """environment.json."""

    sessions: Annotated[list[Session], Field(max_length=100_000)]


PaperRow = tuple[Text, FromZero | None, Share | None]
PaperRows = dict[Name, Annotated[dict[StageName, PaperRow], Field(max_length=MOST_ROWS)]]


@MORE
class LayerQuantiles(TypedDict):
    """Quantiles of phi in one layer."""

    q10: Number
    median: Number
    q90: Number


Quantiles = Annotated[dict[Text, LayerQuantiles], Field(min_length=1, max_length=10_000)]


def read_score(path: PathLike, root: PathLike, kind: Any = Score) -> dict[str, Any]:
    """A stage's result.json from below `root`; kind: Score, TargetScore or PaperScore."""
    score: dict[str, Any] = expect_shape(read_result(path, root), kind, path)
    return score


def read_plan(path: PathLike) -> dict[str, Any]:
    """A run's rows.json, with its settings grouped."""
    plan: dict[str, Any] = expect_shape(read_sealed_json(path), Plan, path)
    return plan


def read_tried(path: PathLike) -> dict[str, Any]:
    """A row's tried.json, checked against the results of its tries if they are present.

    Raises:
        InputError: an error in it differs from the result of that try.
    """
    tried: dict[str, Any] = expect_shape(read_sealed_json(path), Tried, path)
    for value, error in tried.get("validation_epe_mm", {}).items():
        result = Path(path).parent / f"try-{value}" / "result.json"
        if result.exists() and read_result(result).get("epe_mm") != error:
            raise InputError(
                f"{path}: says {error} mm for {value}, {result} another error: one of them is of "
                f"another run; {AGAIN}"
            )
    return tried


def read_environment(path: PathLike) -> list[dict[str, Any]]:
    """The sessions of an environment.json."""
    sessions = {"sessions": read_sessions(path)}
    environments: list[dict[str, Any]] = expect_shape(sessions, Environment, path)["sessions"]
    return environments


def read_paper_rows(path: PathLike) -> dict[str, dict[str, tuple[Any, ...]]]:
    """paper_rows.json: {preset: {stage: (label, the paper's EPE, its AUC)}}."""
    rows: dict[str, dict[str, tuple[Any, ...]]] = expect_shape(
        read_sealed_json(path), PaperRows, path
    )
    return rows


def read_quantiles(path: PathLike) -> dict[str, dict[str, float]]:
    """A prior's quantiles per layer."""
    quantiles: dict[str, dict[str, float]] = expect_shape(read_sealed_json(path), Quantiles, path)
    return quantiles


def read_saved_predictions(path: PathLike, count: int) -> Mapping[str, Float[np.ndarray, "..."]]:
    """A stage's predictions.npz with `count` samples.

    Raises:
        InputError: an array is missing, has a different shape, or is not finite.
    """
    arrays = read_arrays(path, "predictions", AGAIN)
    shapes = {"prediction": (count, JOINTS, 3), "scale_mm": (count,), "errors_mm": (count, JOINTS)}
    for name, shape in shapes.items():
        array = arrays.get(name)
        if (
            array is None
            or array.shape != shape
            or array.dtype.kind != "f"
            or not np.isfinite(array).all()
        ):
            found = "none" if array is None else f"{array.shape} {array.dtype}"
            raise InputError(
                f"{path}: field {name!r}: expected finite numbers of shape {shape}, found {found}; "
                f"{AGAIN}"
            )
    return arrays
