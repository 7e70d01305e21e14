"""`cmkg data`: datasets on disk. inspect draws them, verify looks at every file and field, pack
writes what training reads, info tells what a packed set holds, make writes made data in a
dataset's layout."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from .. import engine
from ..errors import InputError
from ..hands.datasets import made, packed
from ..hands.datasets.freihand import FreiHand
from ..hands.datasets.real_hands import RealHands
from ..hands.datasets.rhd import Rhd
from ..hands.datasets.stb import Stb
from .common import from_zero, new_file, positive, reasonable_margin

CHUNK = 64


@dataclass(frozen=True)
class Data:
    """Stands for the commands below in `cmkg --help`."""


@dataclass(frozen=True)
class Which:
    """A dataset on disk."""

    dataset: Literal["rhd", "stb", "freihand", "real-hands"]
    root: str
    """Its folder."""
    split: str = ""
    """RHD: training, evaluation. STB: train, test. FreiHAND: train, test, evaluation. Real
    hands: train, test, all. Empty = the first."""
    domain: str = "gs"
    """FreiHAND: gs, hom, sample or auto."""
    camera: str = "BB_left"
    """STB: BB_left, BB_right or SK_color."""
    wrist: str = "ring"
    """STB: how the wrist follows from the palm's centre: ring, middle or mean."""
    px: int = 320
    """Stored pixels; networks read px / margin of them: 320 for networks of 256."""
    margin: float = 1.25

    def __post_init__(self):
        reasonable_margin(self.margin)
        if not 8 <= self.px <= 1024:
            raise InputError(f"--px: expected 8 to 1024, got {self.px}")


def opened(which):
    """The dataset that the settings name."""
    size = {"px": which.px, "margin": which.margin}
    split = {"split": which.split} if which.split else {}
    return {
        "rhd": lambda: Rhd(which.root, **split, **size),
        "stb": lambda: Stb(which.root, camera=which.camera, wrist=which.wrist, **split, **size),
        "freihand": lambda: FreiHand(which.root, domain=which.domain, **split, **size),
        "real-hands": lambda: RealHands(which.root, which.split or "train", **size),
    }[which.dataset]()


Chosen = Annotated[Which, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Inspect:
    which: Chosen
    out: str = "runs/inspect.png"
    """The contact sheet."""
    count: int = 8
    """Samples, evenly over the split."""


@dataclass(frozen=True)
class Verify:
    which: Chosen
    workers: int = 0
    """Processes; 0 = one a core."""


@dataclass(frozen=True)
class Pack:
    which: Chosen
    out: str
    """Folder of the packed set."""
    workers: int = 0
    """Processes; 0 = one a core."""
    shard: str = ""
    """i/n: packs the i-th of n parts alone; `cmkg data merge` makes one set of them."""

    def __post_init__(self):
        from_zero(self, "workers")


@dataclass(frozen=True)
class Merge:
    folders: tuple[str, ...]
    """The packed shards of one set."""
    out: str


@dataclass(frozen=True)
class Info:
    folder: str
    """A packed set."""


@dataclass(frozen=True)
class Make:
    dataset: Literal["rhd", "stb", "freihand"]
    root: str
    """Folder to write."""
    count: int = 40
    """Training pictures (STB: rounded to twelve sequences)."""
    seed: int = 0

    def __post_init__(self):
        positive(self, "count")
        from_zero(self, "seed")


COMMANDS = {
    "inspect": (
        Inspect,
        "Draw a contact sheet: pictures with projected skeletons, crops, depth; and the counts.",
    ),
    "verify": (Verify, "Look at every file and field; list all that is wrong."),
    "pack": (Pack, "Write the packed set that training reads; goes on where a killed one stopped."),
    "merge": (Merge, "One packed set of its shards."),
    "info": (Info, "What a packed set holds, and whether its checksums are right."),
    "make": (Make, "Write made data (rendered hands) in a dataset's exact layout."),
}


def run(config):
    {Inspect: inspect, Verify: verify, Pack: pack, Merge: merge, Info: info, Make: make}[
        type(config)
    ](config)


# ---- inspect -------------------------------------------------------------------------------------
def inspect(config):
    from ..report import plots

    new_file(config.out, ".png", config.which.root)
    dataset = opened(config.which)
    for key, value in dataset.describe().items():
        print(f"{key:8} {value}")
    numbers = np.linspace(0, len(dataset) - 1, min(config.count, len(dataset))).round().astype(int)
    columns = [pictures(dataset, int(i), plots) for i in numbers]
    sheet = plots.contact_sheet([list(c.values()) for c in columns], list(columns[0]))
    engine.write_atomically(config.out, lambda p: p.write_bytes(sheet))
    print(f"sheet    {config.out}: samples {', '.join(map(str, numbers))}")


def pictures(dataset, i, plots):
    """{label: picture} of one sample: as it is on disk, as it is packed, and what is for
    inspection alone."""
    frame, sample = dataset.frame(i), dataset.samples([i])[0]
    shown = {
        "on disk": plots.skeleton_picture(frame.rgb, frame.K, frame.joints_mm),
        "packed": plots.skeleton_picture(sample.rgb, sample.K, sample.joints_mm),
    }
    if sample.depth is not None:
        shown["depth"] = plots.depth_picture(sample.depth, sample.joints_mm[0, 2])
    if isinstance(dataset, Stb) and dataset.camera == "SK_color":
        shown["SK_depth\n(inspection)"] = plots.depth_picture(
            dataset.depth(i), frame.joints_mm[0, 2]
        )
    if isinstance(dataset, Stb) and dataset.camera != "SK_color":
        shown["other eye\n(inspection)"] = dataset.color(
            i, {"BB_left": "BB_right", "BB_right": "BB_left"}[dataset.camera]
        )
    return shown


# ---- verify --------------------------------------------------------------------------------------
def findings(checks):
    """What the checks find: each returns sentences, or raises one."""
    found = []
    for check in checks:
        try:
            said = check()
            found += said if isinstance(said, list) else []
        except InputError as error:
            found.append(str(error))
    return found


def check_items(dataset, first, last):
    return findings(check for i in range(first, last) for check in dataset.item_checks(i))


def verify(config):
    dataset, found = opened(config.which), []
    try:
        count = len(dataset)
    except InputError as error:
        if not Path(config.which.root).is_dir():
            raise
        found, count = [str(error)], dataset.items()
    found += findings(dataset.file_checks())
    jobs = [(dataset, first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
    workers = config.workers or engine.cores()
    results = (
        engine.process_map(check_items, jobs, workers)
        if len(jobs) > 2 and workers > 1
        else (check_items(*job) for job in jobs)
    )
    with engine.Bar("verify", len(jobs), per_step=CHUNK) as advance:
        for more in results:
            found += more
            advance()
    found = list(dict.fromkeys(found))  # a broken label file is met by every sample
    for sentence in found:
        print(sentence)
    if found:
        raise InputError(
            f"{config.which.root}: {len(found)} finding(s) in {count} samples, listed above"
        )
    print(f"{config.which.root}: {count} samples, every file and field is as expected")


# ---- pack, info, make ----------------------------------------------------------------------------
def pack(config):
    dataset = opened(config.which)
    written = packed.pack(
        packed.Shard(dataset, config.shard) if config.shard else dataset,
        config.out,
        config.workers or None,
    )
    print(
        f"{config.out}: {len(written)} samples, middle bone {written.meta['bone_mm']:.1f} mm "
        "on average"
    )


def merge(config):
    whole = packed.merge(config.folders, config.out)
    print(f"{config.out}: {len(whole)} samples of {len(config.folders)} shards")


def info(config):
    held = packed.Packed(config.folder)
    packed.verify(config.folder)
    for key, value in held.meta["holds"].items():
        print(f"{key:12} {value}")
    for name, (shape, dtype) in held.meta["arrays"].items():
        print(f"{name:12} {tuple(shape)} {dtype}")
    print(f"{'middle bone':12} {held.meta['bone_mm']:.2f} mm on average\n{'checksums':12} right")


def make(config):
    counts = made.make(config.dataset, config.root, config.count, config.seed)
    print(
        f"{config.root}: made data in the layout of {config.dataset}, "
        f"{', '.join(f'{k} {v}' for k, v in counts.items())}"
    )
