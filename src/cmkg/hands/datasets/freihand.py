"""FreiHAND (Zimmermann et al., ICCV 2019): a target dataset in four appearance domains.

RGB photographs of right hands:

    training/rgb/%08d.jpg (224 x 224), training/mask/%08d.jpg (green screen only),
    training_{K,xyz,scale,mano,verts}.json, evaluation/rgb/%08d.jpg, evaluation_{K,scale}.json
    and, released later, evaluation_{xyz,verts,mano}.json

Picture number = index + 32,560 x domain. Joints are in meters, already in this project's order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ...errors import InputError
from .. import geometry
from ..files.reading import (
    expect_folder,
    expected_counts,
    is_made,
    read_json_numbers,
    read_photograph,
    read_picture,
)
from .label_checks import disagreements
from .sample import (
    Frame,
    Joints,
    Matrix,
    Reading,
    Sample,
    crop_frame,
    implausible,
    read_once,
    refuse_implausible,
)

LAYOUT = (
    "expected FreiHAND_pub_v2: training/rgb/%08d.jpg and training_{K,xyz,scale}.json (evaluation "
    "likewise); its owners publish it at lmb.informatik.uni-freiburg.de/projects/freihand"
)
# Green screen, harmonized, sample and auto, in the order of their picture numbers.
DOMAINS = ("gs", "hom", "sample", "auto")
SPLITS = ("train", "test", "evaluation")
# The paper trains on 0-29,999 and tests on the rest of the training pictures.
COUNTS = {"training": 32_560, "paper_train": 30_000, "evaluation": 3_960}
SIZE = (224, 224)
SHAPES: dict[str, tuple[int, ...]] = {"K": (3, 3), "xyz": (21, 3), "scale": (), "mano": (1, 61)}
HAND_IN_MASK = 127  # masks are JPEGs: 255 on the hand, about 0 elsewhere
RELEASED_FIRST = ("K", "scale")


@lru_cache(maxsize=8)
def read_json_labels(root: str, part: str, name: str, complete: bool = True) -> np.ndarray:
    """Reads labels with one entry per unique picture.

    K (N, 3, 3), xyz (N, 21, 3) meters, scale (N,) or mano (N, 1, 61).

    Args:
        root: the dataset's folder.
        part: "training" or "evaluation".
        name: a key of SHAPES.
        complete: whether to reject a file that lacks an entry for some picture.
    """
    expect_folder(root, LAYOUT)
    path = Path(root) / f"{part}_{name}.json"
    expected = expected_counts(root, **COUNTS)[part]
    if not path.exists():
        later = ""
        if part == "evaluation" and name not in RELEASED_FIRST:
            later = "; it was released later than the pictures: get it from there"
        raise InputError(f"{path}: no such file; {LAYOUT}{later}")
    labels = read_json_numbers(path, SHAPES[name])
    if len(labels) != expected and complete:
        raise InputError(
            f"{path}: holds {len(labels)} entries, expected {expected}; copy it again, or take "
            "what is there: --only-present"
        )
    return labels


@dataclass(frozen=True)
class FreiHand:
    """A split of one of FreiHAND's domains."""

    root: str
    split: str = "train"
    """train, test (the paper's, taken from the training pictures) or evaluation (the official)."""
    domain: str = "gs"
    """gs, hom, sample or auto."""
    px: int = 280
    margin: float = 1.25
    complete: bool = True
    """Reject label files that do not cover every picture."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise InputError(f"FreiHAND: --split is train, test or evaluation, got {self.split!r}")
        if self.domain not in DOMAINS:
            raise InputError(
                f"FreiHAND: --domain is one of {', '.join(DOMAINS)}, got {self.domain!r}"
            )

    @property
    def part(self) -> str:
        """The dataset's folder that contains the split."""
        return "evaluation" if self.split == "evaluation" else "training"

    def indices(self) -> range:
        """The indices of the split's unique pictures."""
        expect_folder(self.root, LAYOUT)
        counts = expected_counts(self.root, **COUNTS)
        if not self.complete:
            smallest = min(len(self._read("K")), len(self._read("xyz")))
            counts = {name: min(count, smallest) for name, count in counts.items()}
        if self.split == "train":
            return range(counts["paper_train"])
        if self.split == "test":
            return range(counts["paper_train"], counts["training"])
        return range(counts["evaluation"])

    def __len__(self) -> int:
        return len(self.indices())

    def number(self, i: int) -> int:
        """The picture's number: index + 32,560 x domain in training, the index in evaluation."""
        index = self.indices()[i]
        if self.part == "evaluation":
            return index
        return index + expected_counts(self.root, **COUNTS)["training"] * DOMAINS.index(self.domain)

    def path(self, kind: str, i: int) -> Path:
        """The file of a picture: rgb or mask."""
        return Path(self.root) / self.part / kind / f"{self.number(i):08d}.jpg"

    def files(self, i: int) -> list[Path]:
        """The files of a sample, without the mask, which no loader reads."""
        return [self.path("rgb", i)]

    def label_files(self) -> list[Path]:
        """Label files that samples share."""
        return [Path(self.root) / f"{self.part}_{name}.json" for name in SHAPES]

    def color(self, i: int) -> Shaped[np.ndarray, "h w 3"]:
        """The RGB picture."""
        return read_photograph(self.path("rgb", i), SIZE)

    def mask(self, i: int) -> Shaped[np.ndarray, "h w"]:
        """The hand mask of a green-screen picture, gray or three equal channels.

        It serves inspection only.
        """
        return read_picture(self.path("mask", i), SIZE, channels=None)

    def _read(self, name: str) -> np.ndarray:
        return read_json_labels(self.root, self.part, name, self.complete)

    def labels(self, i: int) -> tuple[Joints, Matrix]:
        """Joints in mm, and K."""
        index = self.indices()[i]
        K, xyz = (self._read(name)[index] for name in ("K", "xyz"))
        return 1000.0 * xyz, K

    def frame(self, i: int) -> Frame:
        """The picture with its labels."""
        joints, K = self.labels(i)
        refuse_implausible(joints, K, SIZE, self.name(i))
        return Frame(self.color(i), joints, K)

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """Samples by number."""
        limit = partial(geometry.reference_side, enlarged=False)
        frames = [self.frame(int(index)) for index in indices]
        return [crop_frame(frame, self.px, self.margin, limit) for frame in frames]

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def name(self, i: int) -> str:
        """The location of a sample's labels, for messages."""
        return f"{self.root}/{self.part}_xyz.json: entry {self.indices()[i]}"

    def file_checks(self) -> list[Callable[[], Any]]:
        """Checks of whole files; each raises InputError if it fails."""
        names = ["K", "xyz", "scale"]
        if (Path(self.root) / f"{self.part}_mano.json").exists():  # no loader needs it
            names.append("mano")
        checks = [partial(read_json_labels, self.root, self.part, name) for name in names]
        return [*checks, self.check_vertices]

    def check_vertices(self) -> None:
        """Checks only the end of *_verts.json, over a gigabyte of text that no loader reads."""
        path = Path(self.root) / f"{self.part}_verts.json"
        if not path.is_file():
            return
        with open(path, "rb") as file:
            file.seek(max(path.stat().st_size - 64, 0))
            if not file.read().rstrip().endswith(b"]]]"):
                raise InputError(
                    f"{path}: expected a list of lists of vertices, its end is missing; copy it "
                    "again"
                )

    def item_checks(self, i: int) -> list[Callable[[], Any]]:
        """Checks of one sample; each returns findings or raises InputError."""
        color = read_once(self.color, i)
        parts = [color, read_once(self.mask, i)] if self._has_mask else [color]
        return [*parts, lambda: self._look(i, *parts)]

    @property
    def _has_mask(self) -> bool:
        return self.part == "training" and self.domain == "gs"

    def _look(self, i: int, color: Reading, of_mask: Reading | None = None) -> list[str]:
        joints, K = self.labels(i)
        if problems := implausible(joints, K, SIZE, self.name(i)):
            return problems
        mask = of_mask() > HAND_IN_MASK if of_mask else None
        return disagreements(Frame(color(), joints, K), self.name(i), mask=mask)

    def checked_count(self) -> int:
        """The number of samples to check."""
        return len(self)

    def describe(self) -> dict[str, Any]:
        """Describes the dataset as plain JSON."""
        return {
            "dataset": "FreiHAND",
            "split": self.split,
            "domain": self.domain,
            "count": len(self),
            "px": self.px,
            "margin": self.margin,
            "made": is_made(self.root),
        }
