"""EPE, PCK and AUC of 3D joints."""

import numpy as np
import torch

from ..errors import InputError
from .skeleton import MIDDLE_MCP, WRIST, bone_scale

# this literature's; AUC 20-50 uses the last twelve, 21.05 .. 50 mm
THRESHOLDS_MM = np.linspace(0, 50, 20)


def errors_mm(prediction, target, scale_mm):
    """Distances (B, 21) in mm of wrist-relative joints (B, 21, 3) in bone units; scale_mm (B,)."""
    return (prediction - target).norm(dim=2) * scale_mm[:, None]


def pck(errors, thresholds):
    """Share of errors (...) at or under each threshold.

    >>> pck(np.array([10.0, 30.0]), np.array([10.0, 20.0, 50.0]))
    array([0.5, 0.5, 1. ])
    """
    return (np.asarray(errors).reshape(-1, 1) <= thresholds).mean(0)


def area_under(thresholds, curve):
    """Area under a PCK curve by trapezoids, divided by its range: 1 is perfect.

    >>> area_under(np.array([20.0, 35.0, 50.0]), np.array([0.0, 1.0, 1.0]))
    0.75
    """
    return float(np.trapezoid(curve, thresholds) / (thresholds[-1] - thresholds[0]))


def auc_20_50(errors):
    """AUC of (N, 21) errors in mm, per joint, then averaged over joints: the protocol of formats
    and paper."""
    thresholds = THRESHOLDS_MM[8:]
    return float(
        np.mean([area_under(thresholds, pck(e, thresholds)) for e in np.asarray(errors).T])
    )


class PoseMetrics:
    """EPE (mm, mean over joints and samples) and AUC 20-50 over batches: sums and counts, never
    means of means."""

    def __init__(self):
        self.total_mm, self.count = torch.zeros(21, dtype=torch.float64), 0
        self.within = torch.zeros(21, len(THRESHOLDS_MM), dtype=torch.float64)

    def update(self, prediction, target, scale_mm):
        errors = errors_mm(prediction, target, scale_mm).double().cpu()
        self.total_mm += errors.sum(0)
        self.within += (errors[..., None] <= torch.as_tensor(THRESHOLDS_MM)).sum(0)
        self.count += len(errors)

    def compute(self):
        if self.count == 0:
            raise RuntimeError("no sample was evaluated")
        per_joint = (self.total_mm / self.count).numpy()
        curves = (self.within / self.count).numpy()
        return {
            "epe_mm": float(per_joint.mean()),
            "auc_20_50": float(np.mean([area_under(THRESHOLDS_MM[8:], c[8:]) for c in curves])),
            "epe_per_joint_mm": per_joint.round(3).tolist(),
            "pck": curves.mean(0).round(5).tolist(),
            "samples": self.count,
        }


# ---- other protocols, for comparison with published numbers --------------------------------------
def rooted(joints, root="wrist"):
    """Joints (N, 21, 3) relative to the wrist, or to the palm: midway from the wrist to the
    middle MCP."""
    origin = joints[:, WRIST] if root == "wrist" else (joints[:, WRIST] + joints[:, MIDDLE_MCP]) / 2
    return joints - origin[:, None]


def procrustes(prediction, target):
    """Predictions (N, 21, 3) brought nearest to the targets by a rotation, one scale and a shift
    each; no reflection.

    Umeyama, 1991, Eqs. 40-42.
    """
    p_mean, t_mean = prediction.mean(1, keepdims=True), target.mean(1, keepdims=True)
    p, t = prediction - p_mean, target - t_mean
    U, D, Vt = np.linalg.svd(np.einsum("nki,nkj->nij", t, p))
    signs = np.ones((len(p), 3))
    signs[:, 2] = np.sign(np.linalg.det(U @ Vt))
    R = (U * signs[:, None]) @ Vt
    scale = (D * signs).sum(1) / np.maximum((p**2).sum((1, 2)), 1e-12)
    return scale[:, None, None] * np.einsum("nij,nkj->nki", R, p) + t_mean


def scored(
    prediction_mm,
    target_mm,
    visible,
    root="wrist",
    joints="all",
    align="none",
    scale="own",
    thresholds="20-50",
    placed=False,
):
    """{"epe_mm", "auc", "pck", "samples"} of (N, 21, 3) arrays in mm by a protocol:

    root wrist or palm, each prediction's own; placed: predictions lie about the true wrist
    already, as a network's wrist-relative numbers do, and with root wrist stay there (the
    paper's protocol); joints all or visible (N, 21); align none or procrustes; scale own, or
    given: the bone |middle MCP - middle PIP| of each prediction is set to the true one;
    thresholds 20-50 or 0-50 mm. AUC is per joint, then averaged over the joints that were seen.
    """
    t = rooted(target_mm, root)
    p = (
        prediction_mm - target_mm[:, :1]
        if placed and root == "wrist"
        else rooted(prediction_mm, root)
    )
    if scale == "given":
        p = p * (bone_scale(t) / np.maximum(bone_scale(p), 1e-9))[:, None, None]
    if align == "procrustes":
        p = procrustes(p, t)
    errors, counted = (
        np.linalg.norm(p - t, axis=2),
        visible if joints == "visible" else np.ones(t.shape[:2], bool),
    )
    if not counted.any():
        raise InputError("no joint is visible in this set; evaluate all joints")
    limits = THRESHOLDS_MM[8:] if thresholds == "20-50" else THRESHOLDS_MM
    curves = [pck(errors[counted[:, j], j], limits) for j in range(21) if counted[:, j].any()]
    return {
        "epe_mm": float(errors[counted].mean()),
        "auc": float(np.mean([area_under(limits, c) for c in curves])),
        "pck": pck(errors[counted], THRESHOLDS_MM).round(5).tolist(),
        "samples": len(t),
    }
