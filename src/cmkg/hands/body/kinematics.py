"""Rotations, chains of bones and skinning, of NumPy arrays and of tensors alike.

Every array may have leading dimensions; tensors are differentiable. The wrist is a bone, too.
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
    """The module whose functions take this array: torch or NumPy."""
    return torch if isinstance(array, Tensor) else np


def as_like(array: np.ndarray, like: Any) -> Any:
    """The array as `like` is: a tensor of its type and place, or unchanged."""
    return torch.as_tensor(array).to(like) if isinstance(like, Tensor) else array


def rotation_matrices(vectors: Float[Any, "*n 3"]) -> Float[Any, "*n 3 3"]:
    """Rotations of axis times angle, in radians.

    >>> rotation_matrices(np.array([0.0, 0.0, np.pi / 2])).round(6) @ [1, 0, 0]
    array([0., 1., 0.])
    """
    if not isinstance(vectors, Tensor):
        matrices = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix()
        return matrices.reshape(*vectors.shape, 3)
    x, y, z = vectors.unbind(-1)
    o = torch.zeros_like(x)
    skew = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).view(*vectors.shape, 3)
    return torch.linalg.matrix_exp(skew)  # has a derivative where nothing turns


def chain_bones(
    turns: Float[Any, "*n j 3 3"], heads: Float[Any, "*n j 3"], parents: Sequence[int] | np.ndarray
) -> BonePoses:
    """Forward kinematics: each bone turns about its head and takes its children along.

    Args:
        turns: rotations of the bones against their parents, in the template's axes.
        heads: of the bones at rest, metres.
        parents: each bone's parent, which stands before it; -1 for the first, the root.
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
    """Linear blend skinning of V vertices: the sum over bones of weight * (R v + t)."""
    R = (weights @ bones.R.reshape(*bones.R.shape[:-2], 9)).reshape(*rest.shape, 3)
    return (R @ rest[..., None])[..., 0] + weights @ bones.t
