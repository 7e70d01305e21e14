"""EPE, PCK and AUC of 3D joints, by the paper's and other protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import InputError
from .skeleton import MIDDLE_MCP, WRIST, bone_scale

THRESHOLDS_MM = np.linspace(0, 50, 20)  # as used in the literature
FROM_20_MM = 8  # AUC 20-50 uses the last twelve, 21.05 ... 50 mm

Joints = Float[np.ndarray, "n 21 3"]


def errors_mm(
    prediction: Float[Tensor, "n 21 3"],
    target: Float[Tensor, "n 21 3"],
    scale_mm: Float[Tensor, " n"],
) -> Float[Tensor, "n 21"]:
    """Distances in mm of wrist-relative joints in bone units; scale_mm is the bone's length."""
    return (prediction - target).norm(dim=2) * scale_mm[:, None]


def pck(errors: np.ndarray, thresholds: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    """Share of errors (...) at or below each threshold.

    >>> pck(np.array([10.0, 30.0]), np.array([10.0, 20.0, 50.0]))
    array([0.5, 0.5, 1. ])
    """
    return (np.asarray(errors).reshape(-1, 1) <= thresholds).mean(0)


def area_under(thresholds: Float[np.ndarray, " t"], curve: Float[np.ndarray, " t"]) -> float:
    """Area under a PCK curve by the trapezoidal rule, divided by its range; 1 is perfect.

    >>> area_under(np.array([20.0, 35.0, 50.0]), np.array([0.0, 1.0, 1.0]))
    0.75
    """
    return float(np.trapezoid(curve, thresholds) / (thresholds[-1] - thresholds[0]))


def mean_area(curves: np.ndarray, thresholds: Float[np.ndarray, " t"]) -> float:
    """AUC as in the literature: computed for each joint's curve (J, T), then averaged."""
    return float(np.mean([area_under(thresholds, curve) for curve in curves]))


class PoseMetrics:
    """Accumulates EPE and AUC 20-50 over batches as sums and counts, not as means of means."""

    def __init__(self) -> None:
        self.total_mm = torch.zeros(21, dtype=torch.float64)
        self.within = torch.zeros(21, len(THRESHOLDS_MM), dtype=torch.float64)
        self.count = 0

    def update(
        self,
        prediction: Float[Tensor, "n 21 3"],
        target: Float[Tensor, "n 21 3"],
        scale_mm: Float[Tensor, " n"],
    ) -> None:
        """Adds a batch; see `errors_mm`."""
        errors = errors_mm(prediction, target, scale_mm).double().cpu()
        self.total_mm += errors.sum(0)
        self.within += (errors[..., None] <= torch.as_tensor(THRESHOLDS_MM)).sum(0)
        self.count += len(errors)

    def compute(self) -> dict[str, Any]:
        """Returns {"epe_mm", "auc_20_50", "epe_per_joint_mm", "pck", "samples"} as plain JSON.

        Raises:
            RuntimeError: no sample was evaluated.
        """
        if self.count == 0:
            raise RuntimeError("no sample was evaluated")
        per_joint = (self.total_mm / self.count).numpy()
        curves = (self.within / self.count).numpy()
        return {
            "epe_mm": float(per_joint.mean()),
            "auc_20_50": mean_area(curves[:, FROM_20_MM:], THRESHOLDS_MM[FROM_20_MM:]),
            "epe_per_joint_mm": per_joint.round(3).tolist(),
            "pck": curves.mean(0).round(5).tolist(),
            "samples": self.count,
        }


# ---- other protocols, for comparison with published numbers --------------------------------------
@dataclass(frozen=True)
class Protocol:
    """How predictions are compared with the ground truth; the defaults are the paper's."""

    root: Literal["wrist", "palm"] = "wrist"
    """Root that joints are relative to; the paper's is the wrist. Joints in a file are shifted by
    their own root; a network's joints are wrist-relative."""
    joints: Literal["all", "visible"] = "all"
    align: Literal["none", "procrustes"] = "none"
    scale: Literal["own", "given"] = "own"
    """given: predictions are scaled to the true bone |middle MCP - middle PIP|."""
    thresholds: Literal["20-50", "0-50"] = "20-50"
    """Range of the AUC thresholds, in mm."""
    protocol: Literal["paper", "freihand", "ho3d"] = "paper"
    """paper: uses the other settings. freihand, ho3d: the metrics of those benchmarks' scripts, in
    the camera's frame, which determine the other settings."""

    def __post_init__(self) -> None:
        others = (self.root, self.joints, self.align, self.scale, self.thresholds)
        if self.protocol != "paper" and others != ("wrist", "all", "none", "own", "20-50"):
            raise InputError(
                f"--protocol {self.protocol}: has a root, joints, alignments, scale and "
                "thresholds of its own; leave --root, --joints, --align, --scale and "
                "--thresholds out"
            )

    def describe(self) -> str:
        """Describes the protocol in words."""
        if self.protocol != "paper":
            return f"as {OFFICIAL[self.protocol]}"
        return ", ".join(
            (
                f"{self.root} root",
                f"{self.joints} joints",
                ALIGNED[self.align],
                "bone length given" if self.scale == "given" else "scale as predicted",
            )
        )


ALIGNED = {"none": "not aligned", "procrustes": "Procrustes-aligned without reflection"}
OFFICIAL = {
    "freihand": (
        "FreiHAND counts: all joints, absolute in the camera's frame; aligned by a similarity "
        "that may reflect; AUC over 100 thresholds from 0 to 50 mm"
    ),
    "ho3d": (
        "HO-3D counts: all joints, absolute in the camera's frame; wrist and |middle MCP - "
        "wrist| set to the true ones; aligned by a similarity that may reflect; AUC over 100 "
        "thresholds from 0 to 50 mm"
    ),
}
OFFICIAL_THRESHOLDS_MM = np.linspace(0, 50, 100)


def relative_to_root(joints: Joints, root: str = "wrist") -> Joints:
    """Joints relative to the wrist, or to the palm, midway between the wrist and the middle MCP."""
    origin = joints[:, WRIST]
    if root != "wrist":
        origin = (joints[:, WRIST] + joints[:, MIDDLE_MCP]) / 2
    return joints - origin[:, None]


def procrustes(prediction: Joints, target: Joints, reflected: bool = False) -> Joints:
    """Aligns each prediction with its target by a rotation, a scale and a translation.

    See Umeyama, 1991, Eqs. 40-42.

    Args:
        prediction, target: joints.
        reflected: whether reflections are allowed, as in FreiHAND's and HO-3D's scripts.
    """
    p_mean, t_mean = prediction.mean(1, keepdims=True), target.mean(1, keepdims=True)
    p, t = prediction - p_mean, target - t_mean
    U, D, Vt = np.linalg.svd(np.einsum("nki,nkj->nij", t, p))
    signs = np.ones((len(p), 3))
    if not reflected:
        signs[:, 2] = np.sign(np.linalg.det(U @ Vt))
    R = (U * signs[:, None]) @ Vt
    scale = (D * signs).sum(1) / np.maximum((p**2).sum((1, 2)), 1e-12)
    return scale[:, None, None] * np.einsum("nij,nkj->nki", R, p) + t_mean


def score_by_protocol(
    prediction_mm: Joints,
    target_mm: Joints,
    visible: Bool[np.ndarray, "n 21"],
    protocol: Protocol | None = None,
    placed: bool = False,
) -> dict[str, Any]:
    """Computes {"epe_mm", "auc", "pck", "samples"} of predictions in mm by a protocol.

    AUC is computed per joint, then averaged over the joints that count.

    Args:
        prediction_mm, target_mm: joints.
        visible: the joints that count if the protocol uses only visible ones.
        protocol: None is the paper's.
        placed: whether predictions are already relative to the true wrist, like a network's
            outputs, so that with the wrist as root they are not shifted (the paper's protocol).

    Raises:
        InputError: no joint counts.
    """
    protocol = protocol or Protocol()
    if protocol.protocol != "paper":
        return score_officially(prediction_mm, target_mm, protocol.protocol)
    target = relative_to_root(target_mm, protocol.root)
    prediction = relative_to_root(prediction_mm, protocol.root)
    if placed and protocol.root == "wrist":
        prediction = prediction_mm - target_mm[:, :1]
    if protocol.scale == "given":
        ratio = bone_scale(target) / np.maximum(bone_scale(prediction), 1e-9)
        prediction = prediction * ratio[:, None, None]
    if protocol.align == "procrustes":
        prediction = procrustes(prediction, target)
    errors = np.linalg.norm(prediction - target, axis=2)
    counted = visible if protocol.joints == "visible" else np.ones(target.shape[:2], bool)
    if not counted.any():
        raise InputError("no joint is visible in this set; evaluate all joints")
    limits = THRESHOLDS_MM[FROM_20_MM:] if protocol.thresholds == "20-50" else THRESHOLDS_MM
    curves = [pck(errors[counted[:, j], j], limits) for j in range(21) if counted[:, j].any()]
    return {
        "epe_mm": float(errors[counted].mean()),
        "auc": mean_area(np.array(curves), limits),
        "pck": pck(errors[counted], THRESHOLDS_MM).round(5).tolist(),
        "samples": len(target),
    }


def score_officially(prediction_mm: Joints, target_mm: Joints, benchmark: str) -> dict[str, Any]:
    """Computes the metrics of a benchmark's own script for joints in mm in the camera's frame.

    Args:
        prediction_mm, target_mm: joints, absolute.
        benchmark: "freihand" or "ho3d" (their eval.py).

    Returns:
        {"epe_mm", "auc", "aligned_epe_mm", "aligned_auc", "pck", "samples"}, and for ho3d
        {"scaled_epe_mm", "scaled_auc"}, with wrist and scale given.
    """
    forms = {"": prediction_mm, "aligned_": procrustes(prediction_mm, target_mm, reflected=True)}
    if benchmark == "ho3d":
        palms = [
            np.linalg.norm(joints[:, MIDDLE_MCP] - joints[:, WRIST], axis=1)
            for joints in (prediction_mm, target_mm)
        ]
        ratio = palms[1] / np.maximum(palms[0], 1e-9)
        relative = relative_to_root(prediction_mm) * ratio[:, None, None]
        forms["scaled_"] = relative + target_mm[:, WRIST : WRIST + 1]
    scores: dict[str, Any] = {"samples": len(target_mm)}
    for name, joints in forms.items():
        errors = np.linalg.norm(joints - target_mm, axis=2)
        curves = np.array([pck(errors[:, joint], OFFICIAL_THRESHOLDS_MM) for joint in range(21)])
        scores[f"{name}epe_mm"] = float(errors.mean())
        scores[f"{name}auc"] = mean_area(curves, OFFICIAL_THRESHOLDS_MM)
    absolute = np.linalg.norm(prediction_mm - target_mm, axis=2)
    return scores | {"pck": pck(absolute, THRESHOLDS_MM).round(5).tolist()}
