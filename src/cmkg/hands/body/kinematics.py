"""Rotations, bone chains and skinning for NumPy arrays and tensors.

Arrays may have leading dimensions; tensors are differentiable. The wrist counts as a bone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor


class BonePoses(NamedTuple):
    """World transforms x -> R x + t of J bones, from the resting to the posed hand."""

    R: Float[Any, "*n j 3 3"]
    t: Float[Any, "*n j 3"]


def namespace(array: Any) -> Any:
    """The array's module: torch or NumPy."""
    return torch if isinstance(array, Tensor) else np


def as_like(array: np.ndarray, like: Any) -> Any:
    """Converts the array to a tensor of `like`'s type and device, or returns it unchanged."""
    return torch.as_tensor(array).to(like) if isinstance(like, Tensor) else array


def rotation_matrices(vectors: Float[Any, "*n 3"]) -> Float[Any, "*n 3 3"]:
    """Converts rotation vectors (axis times angle in radians) to matrices.

    >>> rotation_matrices(np.array([0.0, 0.0, np.pi / 2])).round(6) @ [1, 0, 0]
    array([0., 1., 0.])
    """
    if not isinstance(vectors, Tensor):
        matrices = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix()
        return matrices.reshape(*vectors.shape, 3)
    x, y, z = vectors.unbind(-1)
    o = torch.zeros_like(x)
    skew = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).view(*vectors.shape, 3)
    return torch.linalg.matrix_exp(skew)  # differentiable at the identity


def chain_bones(
    turns: Float[Any, "*n j 3 3"], heads: Float[Any, "*n j 3"], parents: Sequence[int] | np.ndarray
) -> BonePoses:
    """Forward kinematics: each bone rotates about its head and moves its children.

    Args:
        turns: rotations of the bones relative to their parents, in the template's axes.
        heads: heads of the bones at rest, in meters.
        parents: each bone's parent, which precedes it; -1 for the first, the root.
    """
    R, at = [turns[..., 0, :, :]], [heads[..., 0, :]]
    for bone, parent in enumerate(parents[1:], 1):
        reach = heads[..., bone, :] - heads[..., parent, :]
        at.append(at[parent] + (R[parent] @ reach[..., None])[..., 0])
        R.append(R[parent] @ turns[..., bone, :, :])
    stack = namespace(turns).stack
    turned = stack(R, -3)
    return BonePoses(turned, stack(at, -2) - (turned @ heads[..., None])[..., 0])


def skin(
    rest: Float[Any, "*n v 3"], weights: Float[Any, "v j"], bones: BonePoses
) -> Float[Any, "*n v 3"]:
    """Linear blend skinning of V vertices: sums weight * (R v + t) over bones."""
    R = (weights @ bones.R.reshape(*bones.R.shape[:-2], 9)).reshape(*rest.shape, 3)
    return (R @ rest[..., None])[..., 0] + weights @ bones.t
