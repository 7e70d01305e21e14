"""STB, the Stereo hand pose Tracking Benchmark (Zhang et al., 2016): a target dataset.

RGB sequences of one left hand:

    [images/]B{1..6}{Counting,Random}/{BB_left,BB_right,SK_color,SK_depth}_{0..1499}.png, 640 x 480,
    labels/<sequence>_{BB,SK}.mat, field handPara (3, 21, 1500) in mm

The depth maps and the other cameras' pictures are for inspection only; `samples` never opens them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Shaped

from ...errors import InputError
from .. import geometry
from ..files.reading import (
    expect_folder,
    expected_counts,
    is_made,
    read_mat_field,
    read_photograph,
    read_picture,
)
from .label_checks import disagreements
from .sample import (
    Frame,
    Joints,
    Reading,
    Sample,
    crop_frame,
    implausible,
    read_once,
    refuse_implausible,
)

LAYOUT = (
    "expected STB: [images/]B1Counting/BB_left_0.png and so on, labels/B1Counting_BB.mat and "
    "labels/B1Counting_SK.mat; its owners publish it at sites.google.com/site/zhjw1988"
)
SEQUENCES = tuple(f"B{b}{kind}" for b in range(1, 7) for kind in ("Counting", "Random"))
SPLITS = {"test": SEQUENCES[:2], "train": SEQUENCES[2:]}  # B1 is the evaluation
FRAMES = 1500
SIZE = (480, 640)
# STB's order: palm, then little, ring, middle, index, thumb, each from its base to its tip.
TO_OUR_ORDER = np.array([0, 17, 18, 19, 20, 13, 14, 15, 16, 9, 10, 11, 12, 5, 6, 7, 8, 1, 2, 3, 4])
BB_K = np.array([[822.79041, 0, 318.47345], [0, 822.79041, 250.31296], [0, 0, 1.0]])
BASELINE_MM = 120.054  # of the rectified stereo pair: X_right = X_left - (120.054, 0, 0)
SK_K = np.array([[607.92271, 0, 314.78337], [0, 607.88192, 236.42484], [0, 0, 1.0]])
SK_DEPTH_K = np.array([[475.62768, 0, 336.41179], [0, 474.77709, 238.77962], [0, 0, 1.0]])
SK_ROTATION = cv2.Rodrigues(np.array([0.00531, -0.01196, 0.00301]))[0]  # X_depth = R X_color + t
SK_TRANSLATION_MM = np.array([-24.0381, -0.4563, -1.2326])
CAMERAS = {"BB_left": BB_K, "BB_right": BB_K, "SK_color": SK_K}
MCPS = np.array([5, 9, 13, 17])
RING_MCP, MIDDLE_MCP = 13, 9
WRISTS = ("ring", "middle", "mean")

AnyJoints = Float[np.ndarray, "*n 21 3"]


def palm_to_wrist(joints: AnyJoints, convention: str = "ring") -> AnyJoints:
    """Replaces STB's palm center, joint 0, with an extrapolated wrist.

    Published conventions place it 8 to 20 mm apart. ring: ring MCP + 2 (palm - ring MCP), the
    default. middle: middle MCP + 2.2 (palm - middle MCP). mean: M + 2.25 (palm - M) with the mean M
    of the four finger MCPs.

    Raises:
        InputError: the convention is unknown.
    """
    if convention == "ring":
        base, factor = joints[..., RING_MCP, :], 2.0
    elif convention == "middle":
        base, factor = joints[..., MIDDLE_MCP, :], 2.2
    elif convention == "mean":
        base, factor = joints[..., MCPS, :].mean(-2), 2.25
    else:
        raise InputError(f"STB: --wrist is one of {', '.join(WRISTS)}, got {convention!r}")
    moved = joints.copy()
    moved[..., 0, :] = base + factor * (joints[..., 0, :] - base)
    return moved


def decode_stb_depth(rgb: Shaped[np.ndarray, "h w 3"]) -> Shaped[np.ndarray, "h w"]:
    """Decodes an SK_depth picture to uint16 millimeters: R + 256 G.

    The low byte is in red, unlike in RHD.

    >>> int(decode_stb_depth(np.array([[[26, 2, 0]]], np.uint8))[0, 0])
    538
    """
    return (rgb[..., 0].astype(np.uint16) + 256 * rgb[..., 1].astype(np.uint16)).astype(np.uint16)


def to_camera(points_mm: Float[np.ndarray, "*n 3"], camera: str) -> Float[np.ndarray, "*n 3"]:
    """Transforms labeled points to the camera's frame.

    BB labels are in the left camera's frame, SK labels in the depth camera's.
    """
    if camera == "SK_color":
        return (points_mm - SK_TRANSLATION_MM) @ SK_ROTATION  # R^T (X - t)
    return points_mm - np.array([BASELINE_MM if camera == "BB_right" else 0.0, 0.0, 0.0])


@lru_cache(maxsize=32)
def read_mat_labels(root: str, sequence: str, pair: str) -> Float[np.ndarray, "frames 21 3"]:
    """Reads handPara of a sequence in mm, in this project's order; joint 0 is the palm's center.

    pair is "BB" or "SK".
    """
    expect_folder(root, LAYOUT)
    path = Path(root) / "labels" / f"{sequence}_{pair}.mat"
    if not path.exists():
        raise InputError(f"{path}: no such file; {LAYOUT}")
    frames = expected_counts(root, frames=FRAMES)["frames"]
    return read_mat_field(path, "handPara", (3, 21, frames)).transpose(2, 1, 0)[:, TO_OUR_ORDER]


@dataclass(frozen=True)
class Stb:
    """A split of STB, seen by one of its cameras."""

    root: str
    split: str = "train"
    """train (B2-B6) or test (B1)."""
    camera: str = "BB_left"
    """BB_left, BB_right or SK_color."""
    wrist: str = "ring"
    """How the wrist is derived from the palm's center: ring, middle or mean."""
    px: int = 320
    margin: float = 1.25
    complete: bool = True
    """Reject a split with missing label files."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(f"STB: --split is train or test, got {self.split!r}")
        if self.camera not in CAMERAS:
            raise InputError(f"STB: --camera is one of {', '.join(CAMERAS)}, got {self.camera!r}")
        palm_to_wrist(np.zeros((21, 3)), self.wrist)

    @property
    def pair(self) -> str:
        """The camera system whose labels apply: BB or SK."""
        return self.camera[:2]

    @property
    def sequences(self) -> tuple[str, ...]:
        """The sequences of the split; if it may be incomplete, only those with labels."""
        names = SPLITS[self.split]
        if self.complete:
            return names
        labels = Path(self.root) / "labels"
        return tuple(name for name in names if (labels / f"{name}_{self.pair}.mat").exists())

    @property
    def frames(self) -> int:
        """The number of frames in a sequence."""
        return expected_counts(self.root, frames=FRAMES)["frames"]

    def __len__(self) -> int:
        expect_folder(self.root, LAYOUT)
        return len(self.sequences) * self.frames

    def place(self, i: int) -> tuple[str, int]:
        """Returns (sequence, frame) of a sample number."""
        sequence, frame = divmod(i, self.frames)
        return self.sequences[sequence], frame

    def path(self, kind: str, i: int) -> Path:
        """The file of a picture."""
        sequence, frame = self.place(i)
        home = Path(self.root) / "images"
        return (home if home.is_dir() else Path(self.root)) / sequence / f"{kind}_{frame}.png"

    def files(self, i: int) -> list[Path]:
        """The files of a sample."""
        return [self.path(self.camera, i)]

    def label_files(self) -> list[Path]:
        """Label files that samples share."""
        return [Path(self.root) / f"labels/{name}_{self.pair}.mat" for name in self.sequences]

    def color(self, i: int, camera: str | None = None) -> Shaped[np.ndarray, "h w 3"]:
        """The RGB picture of this or another camera."""
        return read_photograph(self.path(camera or self.camera, i), SIZE)

    def depth(self, i: int) -> Shaped[np.ndarray, "h w"]:
        """SK_depth in mm, in the depth camera's frame, for inspection only."""
        return decode_stb_depth(read_picture(self.path("SK_depth", i), SIZE))

    def joints(self, i: int) -> Joints:
        """Joints in millimeters in the camera's frame."""
        sequence, frame = self.place(i)
        labels = read_mat_labels(self.root, sequence, self.pair)[frame]
        return to_camera(palm_to_wrist(labels, self.wrist), self.camera)

    def frame(self, i: int) -> Frame:
        """The picture with its labels."""
        joints, K = self.joints(i), CAMERAS[self.camera]
        refuse_implausible(joints, K, SIZE, self.name(i))
        return Frame(self.color(i), joints, K, left=True)

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """Samples by number; at 640 x 480 a hand may be larger than 256 pixels."""
        limit = partial(geometry.reference_side, enlarged=False)
        frames = [self.frame(int(index)) for index in indices]
        return [crop_frame(frame, self.px, self.margin, limit) for frame in frames]

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def name(self, i: int) -> str:
        """The location of a sample's labels, for messages."""
        sequence, frame = self.place(i)
        return f"{self.root}/labels/{sequence}_{self.pair}.mat: field 'handPara', frame {frame}"

    def file_checks(self) -> list[Callable[[], Any]]:
        """Checks of whole files; each raises InputError if it fails."""
        return [
            partial(read_mat_labels, self.root, sequence, self.pair) for sequence in self.sequences
        ]

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """Checks of one sample; each returns findings or raises InputError."""
        color = read_once(self.color, i)
        checks: list[Callable[[], Any]] = [color]
        if self.camera == "SK_color":
            checks.append(lambda: self.depth(i))
        return [*checks, lambda: self._look(i, color)]

    def _look(self, i: int, color: Reading) -> list[str]:
        joints, K = self.joints(i), CAMERAS[self.camera]
        if problems := implausible(joints, K, SIZE, self.name(i)):
            return problems
        return disagreements(Frame(color(), joints, K, left=True), self.name(i))

    def checked_count(self) -> int:
        """The number of samples to check."""
        return len(self)

    def describe(self) -> dict[str, Any]:
        """Describes the dataset as plain JSON."""
        return {
            "dataset": "STB",
            "split": self.split,
            "camera": self.camera,
            "wrist": self.wrist,
            "count": len(self),
            "px": self.px,
            "margin": self.margin,
            "made": is_made(self.root),
        }
