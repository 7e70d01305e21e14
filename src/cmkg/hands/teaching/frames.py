"""Pictures of hands with labels, from any source."""

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

KEPT = 1000  # number of pictures kept in memory
# A camera at infinity, for labels without a camera: all its rays are parallel to its axis.
FROM_AFAR = np.array([[1e9, 0, 0], [0, 1e9, 0], [0, 0, 1]])


@dataclass(frozen=True)
class Frames:
    """Pictures of hands with labels.

    pictures: uint8 RGB, of any sizes. joints_px: in the pictures. joints_mm: relative to the wrist,
    in the camera's frame. depth_px: the joints' depth relative to the wrist, in pixels at the
    hand. is_right: whether it is a right hand. K: of the cameras. are_placed: joints_px are labels;
    otherwise they only locate the hand, and no 2D loss applies.
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
        """A subset of the frames."""
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
        """The frames with all hands scaled to this size, which a picture cannot reveal."""
        scale = size_mm / self.sizes()
        return replace(self, joints_mm=self.joints_mm * scale[:, None, None])


def bones_of(joints: Float[np.ndarray, "n 21 3"]) -> Float[np.ndarray, "n 20"]:
    """Lengths of skeleton.BONES, in the joints' unit."""
    parents, children = np.array(BONES).T
    return np.linalg.norm(joints[:, children] - joints[:, parents], axis=2)


def ruler_bone_mm(bones_mm: Float[np.ndarray, "*n 20"]) -> float:
    """The bone length as a ruler measures it: skeleton.RULER_SHARE of the mean length."""
    return round(float(RULER_SHARE * bones_mm[..., WRIST_TO_TIP].sum(-1).mean()), 2)


class Pictures(Sequence[Picture]):
    """Pictures that are read on demand; the last KEPT stay in memory."""

    def __init__(self, read: Callable[[int], Picture], count: int) -> None:
        self._read, self._count = lru_cache(maxsize=KEPT)(read), count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: int) -> Picture:  # type: ignore[override]
        if not 0 <= at < self._count:
            raise IndexError(at)
        return self._read(at)


def read_frames(data: str) -> Frames:
    """The labeled frames of a folder of recordings (docs/recordings.md), or of a packed set.

    Raises:
        InputError: the folder is neither, or has no labels.
    """
    if (Path(data) / "meta.json").exists():
        return packed_frames(Packed(data))
    return folder_frames(Folder(data, ALL))


def folder_frames(folder: Folder) -> Frames:
    """The labeled frames of a folder of recordings: whole pictures.

    Raises:
        InputError: no record has a label, or one does not follow docs/recordings.md.
    """
    labels = [(number, folder.label(number)) for number in range(len(folder))]
    labels = [(number, record) for number, record in labels if record.joints_mm is not None]
    if not labels:
        raise InputError(f"{folder.root}: no record has joints; expected labelled frames")
    numbers = [number for number, _ in labels]
    joints = np.array([record.joints_mm for _, record in labels], np.float64)
    K = np.array([record.K for _, record in labels], np.float64)
    pictures = Pictures(lambda at: folder.color(numbers[at]), len(numbers))
    return _frames(pictures, joints, K, np.array([not record.left for _, record in labels]))


def packed_frames(packed: Packed, most: int | None = None) -> Frames:
    """The labeled frames of a packed set, whose hands are right hands or mirrored left hands.

    Raises:
        InputError: no sample has a label.
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
    """Frames with joints converted to other annotators' convention (skeleton.retarget_matrix).

    The result has no 2D labels: in pictures, people annotate other places than a skeleton's.

    Args:
        frames: with true cameras.
        bones_mm: mean bones of the other convention; every hand is scaled to their sum.
        own: mean shares of the frames' own bones; None computes them from the frames.
    """
    sizes = frames.sizes()
    shares = (frames.bones() / sizes[:, None]).mean(0) if own is None else own
    matrix = retarget_matrix(shares, bones_mm / bones_mm.sum())
    moved = np.einsum("ij,njk->nik", matrix, frames.joints_mm)
    # The wrist stays fixed; the other joints follow it in the picture, seen by the same camera.
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
    """Pixels per mm at each wrist, from the joint whose depth differs the most."""
    at = np.abs(frames.joints_mm[..., 2]).argmax(1)
    rows = np.arange(len(frames))
    depth = frames.joints_mm[rows, at, 2]
    return frames.depth_px[rows, at] / np.where(depth == 0, 1e-9, depth)
