"""Pictures of hands with labels, from wherever they come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from ...errors import InputError
from ..datasets.folder import Folder
from ..datasets.folder_splits import ALL
from ..datasets.packed.format import Packed
from ..geometry import project
from ..mediapipe.regions import Picture
from ..skeleton import BONES, RULER_SHARE, WRIST, WRIST_TO_TIP, retarget_matrix

KEPT = 1000  # pictures in memory
# A camera infinitely far away, for labels that know none: every ray is its axis.
FROM_AFAR = np.array([[1e9, 0, 0], [0, 1e9, 0], [0, 0, 1]])


@dataclass(frozen=True)
class Frames:
    """Pictures of hands with labels.

    pictures: uint8 RGB, of any sizes. joints_px: on them. joints_mm: from the wrist on, in the
    camera's frame. depth_px: the joints' depth from the wrist on, in the pictures' pixels at the
    hand. is_right: whose hand it is. K: of the cameras. are_placed: joints_px are labels; else they
    only say where the hand is, and nothing on the picture is learned from them.
    """

    pictures: Sequence[Picture]
    joints_px: Float[np.ndarray, "n 21 2"]
    joints_mm: Float[np.ndarray, "n 21 3"]
    depth_px: Float[np.ndarray, "n 21"]
    is_right: Bool[np.ndarray, " n"]
    K: Float[np.ndarray, "n 3 3"]
    are_placed: bool = True

    def __len__(self) -> int:
        return len(self.joints_px)

    def of(self, numbers: Sequence[int] | np.ndarray) -> Frames:
        """Some of the frames."""
        rows = np.asarray(numbers, int)
        pictures = self.pictures
        return Frames(
            Pictures(lambda at: pictures[int(rows[at])], len(rows)),
            self.joints_px[rows],
            self.joints_mm[rows],
            self.depth_px[rows],
            self.is_right[rows],
            self.K[rows],
            self.are_placed,
        )

    def bones(self) -> Float[np.ndarray, "n 20"]:
        """Lengths of skeleton.BONES, mm."""
        return bones_of(self.joints_mm)

    def sizes(self) -> Float[np.ndarray, " n"]:
        """The sum of each hand's bones, mm."""
        return self.bones().sum(1)

    def of_size(self, size_mm: float) -> Frames:
        """The same, each hand as large in millimetres as that: a picture does not tell the size."""
        scale = size_mm / self.sizes()
        return replace(self, joints_mm=self.joints_mm * scale[:, None, None])


def bones_of(joints: Float[np.ndarray, "n 21 3"]) -> Float[np.ndarray, "n 20"]:
    """Lengths of skeleton.BONES, in the joints' unit."""
    parents, children = np.array(BONES).T
    return np.linalg.norm(joints[:, children] - joints[:, parents], axis=2)


def ruler_bone_mm(bones_mm: Float[np.ndarray, "*n 20"]) -> float:
    """What a ruler says of hands with such bones: skeleton.RULER_SHARE of their mean length."""
    return round(float(RULER_SHARE * bones_mm[..., WRIST_TO_TIP].sum(-1).mean()), 2)


class Pictures(Sequence[Picture]):
    """Pictures that are read when they are asked for; the last KEPT stay in memory."""

    def __init__(self, read: Callable[[int], Picture], count: int) -> None:
        self._read, self._count = lru_cache(maxsize=KEPT)(read), count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: int) -> Picture:  # type: ignore[override]
        if not 0 <= at < self._count:
            raise IndexError(at)
        return self._read(at)


def read_frames(data: str) -> Frames:
    """The labelled frames of a folder of recordings (docs/recordings.md), or of a packed set.

    Raises:
        InputError: it is neither, or has no labels.
    """
    if (Path(data) / "meta.json").exists():
        return packed_frames(Packed(data))
    return folder_frames(Folder(data, ALL))


def folder_frames(folder: Folder) -> Frames:
    """The labelled frames of anyone's recordings: whole pictures.

    Raises:
        InputError: none has a label, or one is not as described in docs/recordings.md.
    """
    labels = [(number, folder.label(number)) for number in range(len(folder))]
    labels = [(number, one) for number, one in labels if one.joints_mm is not None]
    if not labels:
        raise InputError(f"{folder.root}: no record has joints; expected labelled frames")
    numbers = [number for number, _ in labels]
    joints = np.array([one.joints_mm for _, one in labels], np.float64)
    K = np.array([one.K for _, one in labels], np.float64)
    pictures = Pictures(lambda at: folder.color(numbers[at]), len(numbers))
    return _frames(pictures, joints, K, np.array([not one.left for _, one in labels]))


def packed_frames(packed: Packed, most: int | None = None) -> Frames:
    """The labelled frames of a packed set; its hands are right ones, or mirrored to be.

    Raises:
        InputError: none of them has a label.
    """
    rows = np.flatnonzero(packed.labels())[:most]
    if not len(rows):
        raise InputError(f"{packed.folder}: has no labelled frame to learn from")
    pictures = Pictures(lambda at: packed.rgb[rows[[at]]][0], len(rows))
    joints = packed.joints_mm[rows].astype(np.float64)
    return _frames(pictures, joints, packed.K[rows].astype(np.float64), np.ones(len(rows), bool))


def _frames(
    pictures: Sequence[Picture],
    joints: Float[np.ndarray, "n 21 3"],
    K: Float[np.ndarray, "n 3 3"],
    is_right: Bool[np.ndarray, " n"],
) -> Frames:
    relative = joints - joints[:, WRIST : WRIST + 1]
    pixels_a_mm = K[:, :1, 0] / joints[:, WRIST : WRIST + 1, 2]
    places = project(joints, K[:, None].repeat(21, 1))
    return Frames(pictures, places, relative, relative[..., 2] * pixels_a_mm, is_right, K)


def in_convention(
    frames: Frames, bones_mm: Float[np.ndarray, " 20"], own: Float[np.ndarray, " 20"] | None = None
) -> Frames:
    """Frames whose joints lie where other annotators put them (skeleton.retarget_matrix).

    Where they are on the picture is not learned then: people who annotate pictures see other
    places than those of a skeleton.

    Args:
        frames: with true cameras.
        bones_mm: the others' mean bones; every hand gets their sum as its size.
        own: mean shares of the frames' own bones; None takes these frames'.
    """
    sizes = frames.sizes()
    shares = (frames.bones() / sizes[:, None]).mean(0) if own is None else own
    matrix = retarget_matrix(shares, bones_mm / bones_mm.sum())
    moved = np.einsum("ij,njk->nik", matrix, frames.joints_mm)
    # The wrist stays: the others follow it on the picture, seen by the same camera.
    rays = np.einsum("nij,nj->ni", np.linalg.inv(frames.K), _homogeneous(frames.joints_px[:, 0]))
    pixels_a_mm = _pixels_a_mm(frames)
    wrist = rays * (frames.K[:, 0, 0] / pixels_a_mm)[:, None]
    places = project(wrist[:, None] + moved, frames.K[:, None].repeat(21, 1))
    changed = Frames(
        frames.pictures,
        places,
        moved,
        moved[..., 2] * pixels_a_mm[:, None],
        frames.is_right,
        frames.K,
        are_placed=False,
    )
    return changed.of_size(float(bones_mm.sum()))


def _homogeneous(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 3"]:
    return np.column_stack([points, np.ones(len(points))])


def _pixels_a_mm(frames: Frames) -> Float[np.ndarray, " n"]:
    """At each wrist; from the joint whose depth differs the most."""
    at = np.abs(frames.joints_mm[..., 2]).argmax(1)
    rows = np.arange(len(frames))
    depth = frames.joints_mm[rows, at, 2]
    return frames.depth_px[rows, at] / np.where(depth == 0, 1e-9, depth)
