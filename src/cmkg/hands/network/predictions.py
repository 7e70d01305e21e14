"""What a trained network predicts on a packed set, and what that scores."""

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
    """In the order of the frames, on the CPU: joints in bone units, and the bones' lengths."""

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
    """Predictions for a loader's frames, of its one modality.

    A prediction is the mean over pictures turned in their plane by these angles, each turned back;
    (0,) is the paper's. Several processes share the frames; each gets all predictions. A student
    with a unit of its own (PoseNet.unit_mm) is taken to each frame's bone.
    """
    model.eval()
    unit_mm = float(getattr(unwrap(model), "unit_mm", 0.0))
    loader.data.expect_labels()
    first, last = int(loader.data.rows[0]), int(loader.data.rows[-1]) + 1
    (modality,) = loader.modalities
    found = []
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
        found.append((at, Predictions(mean.cpu(), target.cpu(), inputs.scale_mm.cpu())))
    model.train()
    in_order = [part for _, part in sorted(gather_lists(found), key=lambda item: item[0])]
    return Predictions(*(torch.cat(parts) for parts in zip(*in_order, strict=True)))


@torch.no_grad()
def place_by_heatmaps(
    model: nn.Module, loader: Loader, fabric: Processes, bone_mm: float
) -> Float[np.ndarray, "n 21 3"]:
    """Joints in mm in the frames of a packed set's cameras, without its labels' wrist and bone.

    Each hand stands where its joints project best to where its heatmaps are (placing.place_wrist).

    Args:
        model: with an integral head.
        loader: of the packed set.
        fabric: the processes; each places all.
        bone_mm: the length of the bone that the predictions are in units of.

    Raises:
        InputError: the head does not say where on the picture joints are.
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
    """The paper's metrics (metrics.PoseMetrics) of whole arrays."""
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
    """The score of the mean training pose as every prediction: what any network must beat."""

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
