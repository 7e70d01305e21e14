"""Predictions of a trained network on a packed set, and their scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...errors import InputError
from ...modules import unwrap
from ...runtime.distributed import Processes, gather_lists
from ...runtime.files import PathLike, write_arrays
from ..datasets.packed.format import Packed
from ..metrics import PoseMetrics, errors_mm
from ..placing import place_wrist
from ..skeleton import WRIST, bone_scale
from .augment import network_camera
from .loader import Loader

TEST_BATCH = 128


class Predictions(NamedTuple):
    """Predicted and true joints in bone units, and bone lengths, in frame order on the CPU."""

    joints: Float[Tensor, "n 21 3"]
    target: Float[Tensor, "n 21 3"]
    scale_mm: Float[Tensor, " n"]


@torch.no_grad()
def predict(
    model: nn.Module,
    loader: Loader,
    fabric: Processes,
    test_time_rotations_deg: tuple[float, ...] = (0.0,),
    batch: int = TEST_BATCH,
) -> Predictions:
    """Predicts the joints of a loader's frames from its single modality.

    A prediction is the mean over in-plane rotations of the picture by these angles, each rotated
    back; (0,) is the paper's. Several processes share the frames; each receives all predictions. If
    a student has a fixed unit (PoseNet.unit_mm), predictions are converted to each frame's bone.
    """
    model.eval()
    unit_mm = float(getattr(unwrap(model), "unit_mm", 0.0))
    loader.data.expect_labels()
    first, last = int(loader.data.rows[0]), int(loader.data.rows[-1]) + 1
    (modality,) = loader.modalities
    indexed = []
    for at in range(first, last, batch)[fabric.global_rank :: fabric.world_size]:
        rows = range(at, min(at + batch, last))
        total = torch.zeros(())
        for angle in test_time_rotations_deg:
            turns = loader.turns_of(rows, angle)
            inputs = loader.fetch(rows, turns=turns)
            with fabric.autocast():
                joints = model(inputs.picture(modality)).joints
            total = total.to(fabric.device) + joints.float() @ turns.R
        target = inputs.joints @ turns.R
        mean = total / len(test_time_rotations_deg)
        if unit_mm:
            mean = mean * (unit_mm / inputs.scale_mm)[:, None, None]
        indexed.append((at, Predictions(mean.cpu(), target.cpu(), inputs.scale_mm.cpu())))
    model.train()
    in_order = [part for _, part in sorted(gather_lists(indexed), key=lambda item: item[0])]
    return Predictions(*(torch.cat(parts) for parts in zip(*in_order, strict=True)))


@torch.no_grad()
def place_by_heatmaps(
    model: nn.Module, loader: Loader, fabric: Processes, bone_mm: float
) -> Float[np.ndarray, "n 21 3"]:
    """Predicts joints in mm in the cameras' frames, without the true wrist and bone.

    Each hand is placed where its joints project best onto its heatmaps' centers
    (placing.place_wrist).

    Args:
        model: a network with an integral head.
        loader: the loader of the packed set.
        fabric: the processes; each places all hands.
        bone_mm: the length of the unit bone of the predictions.

    Raises:
        InputError: the head does not predict positions on the picture.
    """
    model.eval()
    packed = loader.data.first
    placed = []
    for at in range(0, len(packed), TEST_BATCH):
        rows = range(at, min(at + TEST_BATCH, len(packed)))
        turns = loader.turns_of(rows, 0.0)
        inputs = loader.fetch(rows, turns=turns)
        with fabric.autocast():
            pose = model(inputs.picture("rgb"))
        if pose.uv is None:
            raise InputError("--no-truth: expected a network with --head integral")
        relative = (pose.joints - pose.joints[:, :1]).double().cpu().numpy()
        pixels = ((pose.uv.double().cpu().numpy() + 1) * loader.px - 1) / 2
        K = network_camera(
            torch.from_numpy(np.array(packed.K[at : rows.stop])),
            packed.margin,
            packed.stored_px,
            loader.px,
            turns.zoom.cpu(),
        ).double()
        weights = np.ones(21)
        for joints, uv, camera, R in zip(
            bone_mm * relative, pixels, K.numpy(), turns.R.cpu().double().numpy(), strict=True
        ):
            placed.append((joints + place_wrist(joints, uv, camera, weights)) @ R)
    model.train()
    return np.stack(placed)


def score_predictions(predictions: Predictions) -> dict[str, Any]:
    """Computes the paper's metrics (metrics.PoseMetrics) of complete predictions."""
    metrics = PoseMetrics()
    metrics.update(*predictions)
    return metrics.compute()


def save_predictions(path: PathLike, predictions: Predictions) -> None:
    """Writes predictions.npz: prediction, target, scale_mm and errors_mm."""
    write_arrays(
        path,
        prediction=predictions.joints.numpy(),
        target=predictions.target.numpy(),
        scale_mm=predictions.scale_mm.numpy(),
        errors_mm=errors_mm(*predictions).numpy(),
    )


def score_mean_pose(train: Packed, test: Packed, folder: Path) -> dict[str, Any]:
    """Scores the mean training pose as a constant prediction, the baseline to beat."""

    def targets(packed: Packed) -> tuple[Tensor, Tensor]:
        joints = torch.from_numpy(np.array(packed.joints_mm)[packed.labels()])
        scale = bone_scale(joints)
        return (joints - joints[:, WRIST : WRIST + 1]) / scale[:, None, None], scale

    known, _ = targets(train)
    test.expect_labels()
    target, scale = targets(test)
    predictions = Predictions(known.mean(0).expand_as(target).contiguous(), target, scale)
    save_predictions(folder / "predictions.npz", predictions)
    return score_predictions(predictions)
