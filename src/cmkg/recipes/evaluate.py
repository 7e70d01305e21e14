"""`cmkg evaluate`: a student's weights, or anyone's prediction file, on a packed set: EPE, AUC,
PCK by a named protocol."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from .. import engine
from ..engine import Precision
from ..hands import exchange
from ..hands.datasets.packed import Packed
from ..hands.metrics import scored
from .common import at_least_one, predict, save_predictions, score
from .target import load_start


@dataclass(frozen=True)
class Evaluate:
    weights: str = "runs/target/target.safetensors"
    data: str = "data/target-test"
    out: str = "runs/evaluate"
    student: str = "runs/student"
    """Folder of the source student: its architecture."""
    source: str = ""
    """Give the source's packed set when the weights were trained there: predictions change to
    `data`'s bone convention."""
    convention: str = ""
    """Packed set whose bone lengths are the target's convention (its training split); empty =
    `data`."""
    turns_deg: tuple[float, ...] = (0.0,)
    """A test prediction is the mean over pictures turned by these angles; (0,) is the paper's."""
    precision: Precision = "auto"
    predictions: str = ""
    """Score this file in place of weights: *.json (FreiHAND's submission format) or *.npz, see
    hands/exchange.py."""
    export: str = ""
    """Write the weights' predictions to this file, *.json or *.npz."""
    root: Literal["wrist", "palm"] = "wrist"
    """Joints are relative to this; the paper's is the wrist. A file's joints are moved by their
    own root; the weights' are wrist-relative."""
    joints: Literal["all", "visible"] = "all"
    align: Literal["none", "procrustes"] = "none"
    scale: Literal["own", "given"] = "own"
    """given: the bone |middle MCP - middle PIP| of a prediction is set to the true one."""
    thresholds: Literal["20-50", "0-50"] = "20-50"
    """Of the AUC, in mm."""

    def __post_init__(self):
        at_least_one(self, "turns_deg")

    @property
    def protocol(self):
        return {n: getattr(self, n) for n in ("root", "joints", "align", "scale", "thresholds")}


def run(config: Evaluate):
    packed, scored_file = Packed(config.data), Path(config.predictions or config.weights)
    # a mistake must not claim the folder
    joints_mm = exchange.read(config.predictions, len(packed)) if config.predictions else None
    run = engine.Run(config.out, config)
    crc = zlib.crc32(scored_file.read_bytes()) if scored_file.exists() else None
    if (
        run.result
        and run.result.get("crc32") == crc
        and (not config.export or Path(config.export).exists())
    ):
        return run.result
    prediction_mm, target_mm, paper = (
        own(config, packed, run) if joints_mm is None else foreign(joints_mm, packed)
    )
    if config.export:
        exchange.write(config.export, exchange.to_dataset(prediction_mm, packed))
    other = scored(
        prediction_mm,
        target_mm,
        np.asarray(packed.visible),
        **config.protocol,
        placed=not config.predictions,
    )
    return run.finish(paper | other | {"protocol": config.protocol, "crc32": crc})


def own(config, packed, run):
    """Predictions and truth in mm (N, 21, 3) of the weights, and the scores by the paper's
    protocol."""
    fabric = engine.launch(config.precision)
    convention = Packed(config.convention) if config.convention else packed
    model, settings = load_start(
        config.weights,
        config.student,
        config.source or config.convention or config.data,
        convention,
    )
    predicted = predict(
        model.to(fabric.device), packed, settings["px"], fabric, turns_deg=config.turns_deg
    )
    save_predictions(run.folder / "predictions.npz", *predicted)
    prediction, _, scale_mm = (t.double().numpy() for t in predicted)
    target_mm = np.asarray(packed.joints_mm, np.float64)
    return prediction * scale_mm[:, None, None] + target_mm[:, :1], target_mm, score(*predicted)


def foreign(joints_mm, packed):
    return exchange.from_dataset(joints_mm, packed), np.asarray(packed.joints_mm, np.float64), {}


def sentence(result):
    """What was measured, by which protocol."""
    p = result["protocol"]
    facts = (
        f"{p['root']} root",
        f"{p['joints']} joints",
        "Procrustes-aligned" if p["align"] == "procrustes" else "not aligned",
        "bone length given" if p["scale"] == "given" else "scale as predicted",
    )
    return (
        f"EPE {result['epe_mm']:.2f} mm   AUC {p['thresholds']} {result['auc']:.3f}   "
        f"{result['samples']} samples   ({', '.join(facts)})"
    )
