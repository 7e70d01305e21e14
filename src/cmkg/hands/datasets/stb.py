"""STB, the Stereo hand pose Tracking Benchmark (Zhang et al., 2016): RGB sequences of one left
hand. A target.

    [images/]B{1..6}{Counting,Random}/{BB_left,BB_right,SK_color,SK_depth}_{0..1499}.png, 640 x 480,
    labels/<sequence>_{BB,SK}.mat, field handPara (3, 21, 1500) in mm

The depth camera's maps and the stereo pair are for inspection: `samples` never opens them.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from ...errors import InputError
from .. import geometry
from .files import folder, made, mat_field, picture
from .sample import Frame, cropped, implausible, refuse_implausible

LAYOUT = (
    "expected STB: [images/]B1Counting/BB_left_0.png and so on, labels/B1Counting_BB.mat and "
    "labels/B1Counting_SK.mat; "
    "its owners publish it at sites.google.com/site/zhjw1988"
)
SEQUENCES = tuple(f"B{b}{kind}" for b in range(1, 7) for kind in ("Counting", "Random"))
SPLITS = {"test": SEQUENCES[:2], "train": SEQUENCES[2:]}  # B1 is the evaluation
FRAMES = 1500
SIZE = (480, 640)
# Theirs: palm, then little, ring, middle, index, thumb, each from its base to its tip.
TO_OUR_ORDER = np.array([0, 17, 18, 19, 20, 13, 14, 15, 16, 9, 10, 11, 12, 5, 6, 7, 8, 1, 2, 3, 4])
BB_K = np.array([[822.79041, 0, 318.47345], [0, 822.79041, 250.31296], [0, 0, 1.0]])
BASELINE_MM = 120.054  # of the rectified stereo pair: X_right = X_left - (120.054, 0, 0)
SK_K = np.array([[607.92271, 0, 314.78337], [0, 607.88192, 236.42484], [0, 0, 1.0]])
SK_DEPTH_K = np.array([[475.62768, 0, 336.41179], [0, 474.77709, 238.77962], [0, 0, 1.0]])
SK_ROTATION = cv2.Rodrigues(np.array([0.00531, -0.01196, 0.00301]))[0]  # X_depth = R X_colour + t
SK_TRANSLATION_MM = np.array([-24.0381, -0.4563, -1.2326])
CAMERAS = {"BB_left": BB_K, "BB_right": BB_K, "SK_color": SK_K}
MCPS = np.array([5, 9, 13, 17])


def palm_to_wrist(joints, convention="ring"):
    """Joints (..., 21, 3) with STB's palm centre at 0 -> the wrist there. Authors differ, by 8 to
    20 mm of the root:

    ring: ring MCP + 2 (palm - ring MCP), the default; middle: middle MCP + 2.2 (palm - middle
    MCP); mean: M + 2.25 (palm - M) with the mean M of the four finger MCPs.
    """
    known = {
        "ring": (joints[..., 13, :], 2.0),
        "middle": (joints[..., 9, :], 2.2),
        "mean": (joints[..., MCPS, :].mean(-2), 2.25),
    }
    if convention not in known:
        raise InputError(f"STB: --wrist is one of {', '.join(known)}, got {convention!r}")
    base, factor = known[convention]
    moved = joints.copy()
    moved[..., 0, :] = base + factor * (joints[..., 0, :] - base)
    return moved


def decode_depth(rgb):
    """Millimetres uint16 of an SK_depth picture: R + 256 G, the low byte in red: the opposite of
    RHD.

    >>> int(decode_depth(np.array([[[26, 2, 0]]], np.uint8))[0, 0])
    538
    """
    return (rgb[..., 0].astype(np.uint16) + 256 * rgb[..., 1].astype(np.uint16)).astype(np.uint16)


def to_camera(joints_mm, camera):
    """Label joints (..., 21, 3) -> the camera's frame: BB labels are the left camera's, SK
    labels the depth camera's."""
    if camera == "SK_color":
        return (joints_mm - SK_TRANSLATION_MM) @ SK_ROTATION  # R^T (X - t)
    return joints_mm - np.array([BASELINE_MM if camera == "BB_right" else 0.0, 0.0, 0.0])


@lru_cache(maxsize=32)
def label_file(root, sequence, pair):
    """handPara of a sequence, (frames, 21, 3) mm in our order, joint 0 still the palm's centre."""
    folder(root, LAYOUT)
    path = Path(root) / "labels" / f"{sequence}_{pair}.mat"
    if not path.exists():
        raise InputError(f"{path}: no such file; {LAYOUT}")
    frames = made(root, frames=FRAMES)["frames"]
    return mat_field(path, "handPara", (3, 21, frames)).transpose(2, 1, 0)[:, TO_OUR_ORDER]


@dataclass(frozen=True)
class Stb:
    root: str
    split: str = "train"
    """train (B2-B6) or test (B1)."""
    camera: str = "BB_left"
    """BB_left, BB_right or SK_color."""
    wrist: str = "ring"
    """How the wrist follows from the palm's centre: ring, middle or mean."""
    px: int = 320
    margin: float = 1.25

    def __post_init__(self):
        if self.split not in SPLITS:
            raise InputError(f"STB: --split is train or test, got {self.split!r}")
        if self.camera not in CAMERAS:
            raise InputError(f"STB: --camera is one of {', '.join(CAMERAS)}, got {self.camera!r}")
        palm_to_wrist(np.zeros((21, 3)), self.wrist)

    @property
    def frames(self):
        return made(self.root, frames=FRAMES)["frames"]

    def __len__(self):
        folder(self.root, LAYOUT)
        return len(SPLITS[self.split]) * self.frames

    def place(self, i):
        """(sequence, frame) of a number."""
        sequence, frame = divmod(i, self.frames)
        return SPLITS[self.split][sequence], frame

    def path(self, kind, i):
        sequence, frame = self.place(i)
        home = Path(self.root) / "images"
        return (home if home.is_dir() else Path(self.root)) / sequence / f"{kind}_{frame}.png"

    def color(self, i, camera=None):
        return picture(self.path(camera or self.camera, i), SIZE)

    def depth(self, i):
        """SK_depth (480, 640) in mm, in the depth camera's frame: for inspection alone."""
        return decode_depth(picture(self.path("SK_depth", i), SIZE))

    def joints(self, i):
        """(21, 3) mm in the frame of the camera."""
        sequence, frame = self.place(i)
        labels = label_file(self.root, sequence, self.camera[:2])[frame]
        return to_camera(palm_to_wrist(labels, self.wrist), self.camera)

    def frame(self, i):
        joints, K = self.joints(i), CAMERAS[self.camera]
        refuse_implausible(joints, K, SIZE, self.name(i))
        return Frame(self.color(i), joints, K, left=True)

    def samples(self, indices):
        # at 640 x 480 a hand may be larger than 256 pixels
        def limit(side):
            return geometry.reference_side(side, enlarged=False)

        return [cropped(self.frame(int(i)), self.px, self.margin, limit) for i in indices]

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def name(self, i):
        sequence, frame = self.place(i)
        return (
            f"{self.root}/labels/{sequence}_{self.camera[:2]}.mat: field 'handPara', frame {frame}"
        )

    def file_checks(self):
        return [lambda s=s: label_file(self.root, s, self.camera[:2]) for s in SPLITS[self.split]]

    def item_checks(self, i):
        more = [lambda: self.depth(i)] if self.camera == "SK_color" else []
        return [
            lambda: self.color(i),
            *more,
            lambda: implausible(self.joints(i), CAMERAS[self.camera], SIZE, self.name(i)),
        ]

    def items(self):
        return len(self)

    def describe(self):
        return {
            "dataset": "STB",
            "split": self.split,
            "camera": self.camera,
            "wrist": self.wrist,
            "count": len(self),
            "px": self.px,
            "margin": self.margin,
            "made": made(self.root, frames=FRAMES)["made"],
        }
