"""`cmkg evaluate`: scores a student's weights, or any prediction file, on a packed set.

Reports EPE, AUC and PCK by a named protocol.
"""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ...errors import InputError
from ...runtime.checks import expect_at_least_one
from ...runtime.distributed import Precision, Processes
from ...runtime.files import read_file
from ...runtime.progress import note, say
from ...runtime.run import MARKS
from ..datasets.packed.format import Packed
from ..datasets.packed.labelled_set import open_frames
from ..datasets.prediction_files import (
    expect_prediction_file,
    from_dataset_frame,
    read_predictions,
    to_dataset_frame,
    write_predictions,
)
from ..metrics import Protocol, procrustes, score_by_protocol
from ..network.loader import Loader
from ..network.predictions import (
    Predictions,
    place_by_heatmaps,
    predict,
    save_predictions,
    score_predictions,
)
from ..stages.finished_run import FinishedRun, load_start
from ..stages.stage_run import StageRun
from ..stages.stage_settings import Flat

Joints = Float[np.ndarray, "n 21 3"]
AT_TRUTH = (
    "these predictions stand at the true wrist and have the true bone length of each hand, as the "
    "paper's protocol gives them; box and side are the labels', too (--no-truth leaves wrist "
    "and bone out)"
)
NO_TRUTH = "wrist and bone length are predicted; the box and the side are the labels'"
OFFICIAL_SCORES = {"": "absolute", "scaled_": "wrist and scale given", "aligned_": "aligned"}
MIRRORED = 0.7  # a mirrored error below this share of the plain one is reported


@dataclass(frozen=True)
class Evaluate:
    """Score a student or a prediction file on a packed set."""

    weights: str = "runs/target/target.safetensors"
    data: str = "data/target-test"
    out: str = "runs/evaluate"
    student: str = "runs/student"
    """Folder of the source student, which defines the architecture."""
    source: str = ""
    """The source's packed set, if the weights were trained on it: predictions are converted to the
    bone convention of the evaluated set."""
    convention: str = ""
    """Packed set whose bone lengths define the target's convention (its training split). Empty:
    the evaluated set."""
    test_time_rotations_deg: tuple[float, ...] = (0.0,)
    """Each test prediction is the mean over pictures rotated by these angles, in degrees; the paper
    uses (0,)."""
    precision: Precision = "auto"
    predictions: str = ""
    """Score this file instead of weights: *.json (FreiHAND's submission format) or *.npz, see
    docs/datasets.md."""
    export: str = ""
    """Write the predictions to this file, *.json or *.npz. They are placed at the true wrist and
    scaled to the true bone length, as in the paper's protocol; with --no-truth they are not."""
    no_truth: bool = False
    """Place predictions by their heatmaps (least squares), scaled to the mean bone length of the
    training split (--convention) or of the weights. The box and the side are still given."""
    protocol: Annotated[Protocol, Flat] = field(default_factory=Protocol)

    def __post_init__(self) -> None:
        expect_at_least_one(self, "test_time_rotations_deg")
        if self.export:
            expect_prediction_file(self.export)
            home = Path(self.export).parent
            if any((home / mark).exists() for mark in (*MARKS, "meta.json")):
                raise InputError(
                    f"--export {self.export}: lies in the folder of a run or a packed set; choose "
                    "another one"
                )
        if self.export and self.predictions:
            raise InputError("--export: of weights; a prediction file is one already")
        if self.no_truth and self.predictions:
            raise InputError("--no-truth: of weights; a prediction file is scored as it is")


class _Scored(NamedTuple):
    prediction_mm: Joints
    target_mm: Joints
    by_the_paper: dict[str, Any]
    predictions: Predictions | None


def run(config: Evaluate) -> dict[str, Any]:
    """Scores the predictions and writes the result."""
    packed = Packed(config.data)
    packed.expect_labels()
    student = FinishedRun(Path(config.student))
    inputs: dict[str, str | FinishedRun] = {
        "data": config.data,
        "convention": config.convention,
        "source": config.source,
        "predictions": config.predictions,
    }
    if not config.predictions:
        inputs |= {"student": student, "weights": config.weights}
    stage = StageRun(config, "evaluate", inputs, config.precision)
    file = Path(config.predictions or config.weights)
    if not file.exists():
        raise InputError(f"{file}: expected {_what_is_scored(config)}, found no such file")
    facts = {"export_crc32": _checksum_of_export(config)}
    scored = _read_predictions(config, packed) if config.predictions else None
    if stage.result and all(stage.result.get(name) == value for name, value in facts.items()):
        return stage.result
    if scored is None:
        scored = _score_weights(config, packed, student, stage.fabric)
    with stage.claim():
        if scored.predictions is not None:
            save_predictions(stage.path("predictions.npz"), scored.predictions)
        if config.export:
            expect_earlier_predictions(config.export, len(packed))
            from_truth = NO_TRUTH if config.no_truth else AT_TRUTH
            in_dataset_frame = to_dataset_frame(scored.prediction_mm, packed)
            write_predictions(config.export, in_dataset_frame, from_truth)
            say(f"{config.export}: {from_truth}")
        if config.predictions:
            note_reflection(scored.prediction_mm, scored.target_mm, file)
        by_protocol = score_by_protocol(
            scored.prediction_mm,
            scored.target_mm,
            np.asarray(packed.visible),
            config.protocol,
            placed=not config.predictions and not config.no_truth,
        )
        facts = {"export_crc32": _checksum_of_export(config)}
        protocol = {"protocol": asdict(config.protocol)}
        return stage.finish(scored.by_the_paper | by_protocol | facts | protocol)


def _what_is_scored(config: Evaluate) -> str:
    return "predictions" if config.predictions else "weights"


def _read_predictions(config: Evaluate, packed: Packed) -> _Scored:
    foreign = read_predictions(config.predictions, len(packed))
    target_mm = np.asarray(packed.joints_mm, np.float64)
    return _Scored(from_dataset_frame(foreign, packed), target_mm, {}, None)


def expect_earlier_predictions(path: str, count: int) -> None:
    """Refuses to overwrite a file that is not an export of predictions.

    Raises:
        InputError: the file is not such an export.
    """
    if not Path(path).exists():
        return
    try:
        read_predictions(path, count)
    except InputError:
        raise InputError(
            f"--export {path}: is there already and holds no predictions of this set; choose "
            "another name"
        ) from None


def _checksum_of_export(config: Evaluate) -> int | None:
    """The checksum of the exported file; None if there is no file."""
    if not config.export or not Path(config.export).exists():
        return None
    return zlib.crc32(read_file(config.export, "predictions"))


def _score_weights(
    config: Evaluate, packed: Packed, student: FinishedRun, fabric: Processes
) -> _Scored:
    convention = Packed(config.convention) if config.convention else packed
    source = config.source or config.convention or config.data
    model, net = load_start(config.weights, student, source, convention)
    loader = Loader(open_frames(packed), net.px, fabric.device, upright=net.upright)
    rotations = config.test_time_rotations_deg
    predictions = predict(model.to(fabric.device), loader, fabric, rotations)
    joints, _, scale_mm = (part.double().numpy() for part in predictions)
    target_mm = np.asarray(packed.joints_mm, np.float64)
    prediction_mm = joints * scale_mm[:, None, None] + target_mm[:, :1]
    if config.no_truth:
        bone_mm = float(model.unit_mm) or bone_without_truth(config)
        prediction_mm = place_by_heatmaps(model, loader, fabric, bone_mm)
        return _Scored(prediction_mm, target_mm, {}, None)
    return _Scored(prediction_mm, target_mm, score_predictions(predictions), predictions)


def bone_without_truth(config: Evaluate) -> float:
    """The mean bone length of the training split.

    Raises:
        InputError: no training split is given, or it is the set being predicted.
    """
    if not config.convention or Path(config.convention) == Path(config.data):
        raise InputError(
            "--no-truth: expected --convention, the packed training split, for the bone's length; "
            "these weights have none of their own"
        )
    return Packed(config.convention).bone_mm


def note_reflection(prediction_mm: Joints, target_mm: Joints, file: Path) -> None:
    """Reports predictions that fit much better mirrored; aligned official scores hide this."""
    proper, reflected = (
        float(
            np.linalg.norm(procrustes(prediction_mm, target_mm, either) - target_mm, axis=2).mean()
        )
        for either in (False, True)
    )
    if reflected < MIRRORED * proper:
        note(
            f"{file}: aligned, these predictions are {proper:.1f} mm off, and {reflected:.1f} "
            "where they may be mirrored: are right and left mixed up?"
        )


def format_result(result: dict[str, Any]) -> str:
    """The scores and their protocol as text."""
    protocol = Protocol(**result["protocol"])
    if protocol.protocol != "paper":
        scores = ", ".join(
            f"{words} {result[f'{name}epe_mm']:.2f} mm AUC {result[f'{name}auc']:.3f}"
            for name, words in OFFICIAL_SCORES.items()
            if f"{name}epe_mm" in result
        )
        return f"{scores}   {result['samples']} samples   ({protocol.describe()})"
    return (
        f"EPE {result['epe_mm']:.2f} mm   AUC {protocol.thresholds} {result['auc']:.3f}   "
        f"{result['samples']} samples   ({protocol.describe()})"
    )


SETTINGS = Evaluate
