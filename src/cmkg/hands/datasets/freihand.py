"""FreiHAND (Zimmermann et al., ICCV 2019): RGB photographs of right hands in four appearance
domains. A target.

    training/rgb/%08d.jpg (224 x 224), training/mask/%08d.jpg (green screen only),
    training_{K,xyz,scale,mano,verts}.json, evaluation/rgb/%08d.jpg, evaluation_{K,scale}.json
    and, released later, evaluation_{xyz,verts,mano}.json

Picture number = index + 32,560 x domain. Joints are in metres, wrist first, in our order
already.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...errors import InputError
from .. import geometry
from .files import folder, json_numbers, made, picture
from .sample import Frame, cropped, implausible, refuse_implausible

LAYOUT = (
    "expected FreiHAND_pub_v2: training/rgb/%08d.jpg and training_{K,xyz,scale}.json "
    "(evaluation likewise); "
    "its owners publish it at lmb.informatik.uni-freiburg.de/projects/freihand"
)
# G green screen, H harmonised, S sample, A auto: in the order of their numbers
DOMAINS = ("gs", "hom", "sample", "auto")
# the paper trains on 0-29,999, tests on the rest
COUNTS = {"training": 32_560, "paper_train": 30_000, "evaluation": 3_960}
SIZE = (224, 224)
SHAPES = {"K": (3, 3), "xyz": (21, 3), "scale": (), "mano": (1, 61)}


@lru_cache(maxsize=8)
def label_file(root, part, name):
    """A list of numbers with an entry a unique picture: K (N, 3, 3), xyz (N, 21, 3) metres,
    scale (N,)."""
    folder(root, LAYOUT)
    path, expected = Path(root) / f"{part}_{name}.json", made(root, **COUNTS)[part]
    if not path.exists():
        later = (
            "; it was released later than the pictures: get it from there"
            if part == "evaluation" and name not in ("K", "scale")
            else ""
        )
        raise InputError(f"{path}: no such file; {LAYOUT}{later}")
    found = json_numbers(path, SHAPES[name])
    if len(found) != expected:
        raise InputError(f"{path}: holds {len(found)} entries, expected {expected}; copy it again")
    return found


@dataclass(frozen=True)
class FreiHand:
    root: str
    split: str = "train"
    """train, test (the paper's, of the training pictures) or evaluation (the official one)."""
    domain: str = "gs"
    """gs, hom, sample or auto."""
    px: int = 280
    margin: float = 1.25

    def __post_init__(self):
        if self.split not in ("train", "test", "evaluation"):
            raise InputError(f"FreiHAND: --split is train, test or evaluation, got {self.split!r}")
        if self.domain not in DOMAINS:
            raise InputError(
                f"FreiHAND: --domain is one of {', '.join(DOMAINS)}, got {self.domain!r}"
            )

    @property
    def part(self):
        return "evaluation" if self.split == "evaluation" else "training"

    def indices(self):
        """The unique pictures of the split."""
        folder(self.root, LAYOUT)
        n = made(self.root, **COUNTS)
        return {
            "train": range(n["paper_train"]),
            "test": range(n["paper_train"], n["training"]),
            "evaluation": range(n["evaluation"]),
        }[self.split]

    def __len__(self):
        return len(self.indices())

    def number(self, i):
        """The picture's number: index + 32,560 x domain in training, the index in evaluation."""
        index = self.indices()[i]
        return (
            index
            if self.part == "evaluation"
            else index + made(self.root, **COUNTS)["training"] * DOMAINS.index(self.domain)
        )

    def path(self, kind, i):
        return Path(self.root) / self.part / kind / f"{self.number(i):08d}.jpg"

    def color(self, i):
        return picture(self.path("rgb", i), SIZE)

    def mask(self, i):
        """Hand and background (224, 224) uint8, green-screen pictures only: for inspection. Grey
        or three equal channels."""
        return picture(self.path("mask", i), SIZE, channels=None)

    def labels(self, i):
        """joints_mm (21, 3), K (3, 3)."""
        K, xyz = (
            label_file(self.root, self.part, name)[self.indices()[i]] for name in ("K", "xyz")
        )
        return 1000.0 * xyz, K

    def frame(self, i):
        joints, K = self.labels(i)
        refuse_implausible(joints, K, SIZE, self.name(i))
        return Frame(self.color(i), joints, K)

    def samples(self, indices):
        def limit(side):
            return geometry.reference_side(side, enlarged=False)

        return [cropped(self.frame(int(i)), self.px, self.margin, limit) for i in indices]

    # ---- for `cmkg data` -------------------------------------------------------------------------
    def name(self, i):
        return f"{self.root}/{self.part}_xyz.json: entry {self.indices()[i]}"

    def file_checks(self):
        # no loader needs it: checked where it lies
        held = [n for n in ("mano",) if (Path(self.root) / f"{self.part}_{n}.json").exists()]
        return [
            lambda n=n: label_file(self.root, self.part, n) for n in ("K", "xyz", "scale", *held)
        ] + [self.vertices]

    def vertices(self):
        """*_verts.json is over a gigabyte of text that no loader reads: its end is looked at,
        not its numbers."""
        path = Path(self.root) / f"{self.part}_verts.json"
        if not path.exists():
            return
        with open(path, "rb") as f:
            f.seek(max(path.stat().st_size - 64, 0))
            if not f.read().rstrip().endswith(b"]]]"):
                raise InputError(
                    f"{path}: expected a list of lists of vertices, its end is missing; copy "
                    "it again"
                )

    def item_checks(self, i):
        masked = [lambda: self.mask(i)] if self.part == "training" and self.domain == "gs" else []
        return [
            lambda: self.color(i),
            *masked,
            lambda: implausible(*self.labels(i), SIZE, self.name(i)),
        ]

    def items(self):
        return len(self)

    def describe(self):
        return {
            "dataset": "FreiHAND",
            "split": self.split,
            "domain": self.domain,
            "count": len(self),
            "px": self.px,
            "margin": self.margin,
            "made": made(self.root, **COUNTS)["made"],
        }
