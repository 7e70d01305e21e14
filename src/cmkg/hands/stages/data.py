"""`cmkg data`: datasets on disk.

inspect draws them, verify looks at every file and field, pack writes what training reads, merge
makes one set of shards, info tells what a packed set holds, make writes made data in a dataset's
layout.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from ...errors import InputError
from ...runtime.checks import expect_from_zero, expect_new_file, expect_positive
from ...runtime.files import read_file, write_atomically
from ...runtime.progress import Bar
from ...runtime.text import printable
from ...runtime.workers import core_count, process_map
from ..datasets import packed
from ..datasets.checks import grouped
from ..datasets.dexycb import DexYcb
from ..datasets.folder import Folder
from ..datasets.freihand import FreiHand
from ..datasets.ho3d import Ho3d
from ..datasets.interhand import InterHand
from ..datasets.rhd import Rhd
from ..datasets.sample import Frame, Recording
from ..datasets.stb import Stb
from ..datasets.subset import Subset, chosen, expect_files, present
from ..datasets.unpacked import Unpacked
from .settings import Flat, expect_margin

CHUNK = 64
SMALLEST_PX, LARGEST_PX = 8, 1024


@dataclass(frozen=True)
class Which:
    """A dataset on disk."""

    dataset: Literal["folder", "rhd", "stb", "freihand", "dexycb", "ho3d", "interhand", "packed"]
    """folder: anyone's recordings (docs/recordings.md). packed: what `cmkg data pack` or `cmkg
    render` wrote."""
    root: str
    """Its folder."""
    split: str = ""
    """Folder: what its records name, else train or test; fit, validation (parts of train); all.
    RHD: training, evaluation. STB: train, test. FreiHAND: train, test, evaluation. DexYCB:
    s0-train, s0-val, s0-test, s1-train, ... HO-3D: train. InterHand2.6M: train, val, test. Empty =
    the first."""
    only_present: bool = False
    """Of a partial copy, the samples whose files are there: a subset, and called so."""
    indices: str = ""
    """Only these samples of the split, such as 0-99,205: a subset, and called so."""
    domain: str = "gs"
    """FreiHAND: gs, hom, sample or auto."""
    camera: str = "BB_left"
    """STB: BB_left, BB_right or SK_color."""
    wrist: str = "ring"
    """STB: how the wrist follows from the palm's centre: ring, middle or mean."""
    px: int = 320
    """Stored pixels; networks read px / margin of them: 320 for networks of 256."""
    margin: float = 1.25

    def __post_init__(self) -> None:
        expect_margin(self.margin)
        if not SMALLEST_PX <= self.px <= LARGEST_PX:
            raise InputError(f"--px: expected {SMALLEST_PX} to {LARGEST_PX}, got {self.px}")


def open_dataset(which: Which) -> Recording:
    """The dataset that the settings name, or the part of it.

    Raises:
        InputError: it is not there, or has no such part.
    """
    whole = open_whole(which)
    if which.only_present:
        whole = present(whole, which.root)
    return chosen(whole, which.indices) if which.indices else whole


def open_whole(which: Which) -> Recording:
    """The dataset, complete unless --only-present takes what there is."""
    px, margin, complete = which.px, which.margin, not which.only_present
    if which.dataset == "packed":
        if (px, margin, which.split, complete) != (Which.px, Which.margin, "", True):
            raise InputError(
                "--dataset packed: keeps its pixels, margin and split; leave --px, --margin, "
                "--split and --only-present out"
            )
        return Unpacked(which.root)
    if which.dataset == "rhd":
        return Rhd(which.root, which.split or "training", px, margin, complete)
    if which.dataset == "stb":
        split = which.split or "train"
        return Stb(which.root, split, which.camera, which.wrist, px, margin, complete)
    if which.dataset == "dexycb":
        return DexYcb.of(which.root, which.split or "s0-train", px, margin, complete)
    if which.dataset == "ho3d":
        return Ho3d.of(which.root, which.split or "train", px, margin)
    if which.dataset == "interhand":
        return InterHand(which.root, which.split or "train", px, margin)
    if which.dataset == "freihand":
        return FreiHand(which.root, which.split or "train", which.domain, px, margin, complete)
    return Folder(which.root, which.split, px, margin)


@dataclass(frozen=True)
class Inspect:
    """Draw a contact sheet: pictures and depth with the joints in both; and the counts."""

    which: Annotated[Which, Flat]
    out: str = "runs/inspect.png"
    """The contact sheet."""
    count: int = 8
    """Samples, evenly over the split; --indices names them instead."""
    tile: int = 320
    """Pixels a side of each picture on the sheet."""

    def __post_init__(self) -> None:
        expect_positive(self, "count", "tile")


@dataclass(frozen=True)
class Verify:
    """Look at every file and field; list all that is wrong."""

    which: Annotated[Which, Flat]
    workers: int = 0
    """Processes; 0 = one a core."""

    def __post_init__(self) -> None:
        expect_from_zero(self, "workers")


@dataclass(frozen=True)
class Pack:
    """Write the packed set that training reads; goes on where a killed one stopped."""

    which: Annotated[Which, Flat]
    out: str
    """Folder of the packed set."""
    workers: int = 0
    """Processes; 0 = one a core."""
    shard: str = ""
    """i/n: packs the i-th of n parts alone; `cmkg data merge` makes one set of them."""

    def __post_init__(self) -> None:
        expect_from_zero(self, "workers")


@dataclass(frozen=True)
class Merge:
    """One packed set of its shards."""

    folders: tuple[str, ...]
    """The packed shards of one set."""
    out: str


@dataclass(frozen=True)
class Info:
    """What a packed set holds, and whether its checksums are right."""

    folder: str
    """A packed set."""


@dataclass(frozen=True)
class Make:
    """Write made data (rendered hands) in a dataset's exact layout."""

    dataset: Literal["folder", "rhd", "stb", "freihand", "dexycb", "ho3d", "interhand"]
    root: str
    """Folder to write."""
    count: int = 40
    """Training pictures (STB: rounded to twelve sequences; folder: all of its records)."""
    seed: int = 0

    def __post_init__(self) -> None:
        expect_positive(self, "count")
        expect_from_zero(self, "seed")


DataCommand = Inspect | Verify | Pack | Merge | Info | Make


def run(config: DataCommand) -> None:
    """Does what the settings ask for."""
    if isinstance(config, Inspect):
        inspect(config)
    elif isinstance(config, Verify):
        verify(config)
    elif isinstance(config, Pack):
        pack(config)
    elif isinstance(config, Merge):
        merge(config)
    elif isinstance(config, Info):
        print_info(config)
    else:
        make(config)


# ---- inspect -------------------------------------------------------------------------------------
def inspect(config: Inspect) -> None:
    """Draws the contact sheet and prints the counts."""
    from ..report.plots import contact_sheet

    expect_new_file(config.out, ".png", config.which.root)
    dataset = open_dataset(config.which)
    for name, value in dataset.describe().items():
        print(printable(f"{name:13} {value}"))
    last = len(dataset) - 1
    count = last + 1 if config.which.indices else min(config.count, last + 1)
    numbers = np.linspace(0, last, count).round().astype(int)
    own = Path(config.out).resolve()
    if any(own == path.resolve() for n in numbers for path in dataset.files(int(n))):
        raise InputError(f"--out {config.out}: is a picture that is read; choose another name")
    frames = [dataset.frame(int(number)) for number in numbers]
    columns = [
        pictures_of(dataset, int(number), frame, config.tile)
        for number, frame in zip(numbers, frames, strict=True)
    ]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    blank = np.full((config.tile, config.tile, 3), 255, np.uint8)
    sheet = contact_sheet(
        [[column.get(label, blank) for label in labels] for column in columns],
        labels,
        [title_of(dataset, int(n), frame) for n, frame in zip(numbers, frames, strict=True)],
        tile=config.tile,
    )
    write_atomically(config.out, lambda partial: partial.write_bytes(sheet))
    print(printable(f"{'sheet':13} {config.out}: {len(columns)} samples"))


def title_of(dataset: Recording, i: int, frame: Frame) -> str:
    """A sample's number, in the whole set, and its hand."""
    number = dataset.numbers[i] if isinstance(dataset, Subset) else i
    side = "left" if frame.left else "right"
    return f"{number}, {side}" + ("" if frame.labelled else ",\nno label")


def pictures_of(dataset: Recording, i: int, frame: Frame, tile: int = 320) -> dict[str, np.ndarray]:
    """{label: picture} of one sample: as it is on disk, as it is packed, and what is beside it."""
    from ..report.plots import depth_picture, skeleton_picture

    sample = dataset.samples([i])[0]
    shown = {
        "on disk": skeleton_picture(frame.rgb, frame.K, frame.joints_mm, tile),
        "packed": skeleton_picture(sample.rgb, sample.K, sample.joints_mm, tile),
    }
    if sample.depth is not None:
        grey = depth_picture(sample.depth, float(sample.joints_mm[0, 2]), size=len(sample.depth))
        shown["packed depth"] = skeleton_picture(grey, sample.K, sample.joints_mm, tile)
    whole = dataset.whole if isinstance(dataset, Subset) else dataset
    number = dataset.numbers[i] if isinstance(dataset, Subset) else i
    if isinstance(whole, Stb):
        if whole.camera == "SK_color":
            depth = depth_picture(whole.depth(number), float(frame.joints_mm[0, 2]), size=tile)
            shown["SK_depth\n(inspection)"] = depth
        else:
            other = "BB_right" if whole.camera == "BB_left" else "BB_left"
            shown["other eye\n(inspection)"] = whole.color(number, other)
    return shown


# ---- verify --------------------------------------------------------------------------------------
def collect_findings(checks: Iterable[Callable[[], Any]]) -> list[str]:
    """What the checks find: each returns sentences, or raises one."""
    found: list[str] = []
    for check in checks:
        try:
            said = check()
        except InputError as error:
            found.append(str(error))
        else:
            found += said if isinstance(said, list) else []
    return found


def check_items(dataset: Recording, first: int, last: int) -> list[str]:
    """What is wrong with the samples [first, last)."""
    return collect_findings(check for i in range(first, last) for check in dataset.item_checks(i))


def verify(config: Verify) -> None:
    """Prints all that is wrong.

    Raises:
        InputError: something is.
    """
    dataset = open_dataset(config.which)
    found: list[str] = []
    said: dict[str, Any] = {}
    try:
        count, said = len(dataset), dataset.describe()
    except InputError as error:
        if not Path(config.which.root).is_dir():
            raise
        found, count = [str(error)], dataset.checked_count()
    found += collect_findings(dataset.file_checks())
    jobs = [(dataset, at, min(at + CHUNK, count)) for at in range(0, count, CHUNK)]
    workers = config.workers or core_count()
    alone = len(jobs) <= 2 or workers == 1
    results = (check_items(*job) for job in jobs)
    with Bar("verify", len(jobs), per_step=CHUNK) as advance:
        for more in results if alone else process_map(check_items, jobs, workers):
            found += more
            advance()
    found += same_pictures(dataset, count)
    found = list(dict.fromkeys(found))  # a broken label file is met by every sample
    kinds = grouped(found)
    for sentence in kinds:
        print(printable(sentence))
    part = "" if "subset" not in said else f" (a subset: {said['subset']})"
    if kinds:
        raise InputError(
            f"{config.which.root}: {len(found):,} finding(s) in {count:,} samples{part}, of "
            f"{len(kinds)} kind(s), listed above"
        )
    good = "every file and field is as expected"
    print(printable(f"{config.which.root}: {count:,} samples{part}, {good}"))


def same_pictures(dataset: Recording, count: int) -> list[str]:
    """Pictures whose files hold the same bytes, under different names."""
    by_size: dict[int, list[Path]] = {}
    for i in range(count):
        try:
            path = dataset.files(i)[0]
        except InputError:  # named by the sample's own checks
            continue
        if path.is_file():
            by_size.setdefault(path.stat().st_size, []).append(path)
    first: dict[str, Path] = {}
    found = []
    alike = (path for paths in by_size.values() if len(set(paths)) > 1 for path in paths)
    for path in alike:
        digest = hashlib.blake2b(read_file(path, "a picture")).hexdigest()
        if first.setdefault(digest, path) != path:
            found.append(
                f"{path}: the same picture as {first[digest].name}, under labels of its own; "
                "expected each picture once"
            )
    return found


# ---- pack, merge, info, make ---------------------------------------------------------------------
def pack(config: Pack) -> None:
    """Writes a packed set."""
    dataset = open_dataset(config.which)
    expect_files(dataset, config.which.root)
    facts = dataset.describe()
    if facts.get("without_label", 0) == facts["count"]:
        raise InputError(
            f"{config.which.root}: no sample of this split has a label (joints_mm, joints_cm or "
            "joints_m); expected some"
        )
    part = packed.Shard(dataset, config.shard) if config.shard else dataset
    written = packed.pack(part, config.out, config.workers or None)
    bone = f"middle bone {written.bone_mm:.1f} mm on average"
    print(printable(f"{config.out}: {len(written)} samples, {bone}"))


def merge(config: Merge) -> None:
    """Writes one set of its shards."""
    whole = packed.merge_shards(config.folders, config.out)
    print(printable(f"{config.out}: {len(whole)} samples of {len(config.folders)} shards"))


def print_info(config: Info) -> None:
    """Prints what a packed set holds; its checksums are compared."""
    held = packed.verify_checksums(config.folder)
    for name, value in (held.meta["holds"] | {"count": len(held)}).items():
        print(printable(f"{name:12} {value}"))
    for name, (shape, dtype) in held.meta["arrays"].items():
        print(printable(f"{name:12} {tuple(shape)} {dtype}"))
    print(printable(f"{'middle bone':12} {held.bone_mm:.2f} mm on average\n{'checksums':12} right"))


def make(config: Make) -> None:
    """Writes made data."""
    from ..datasets.synthetic import make_dataset  # a rasteriser, which own pictures do not need

    counts = make_dataset(config.dataset, config.root, config.count, config.seed)
    made = ", ".join(f"{part} {count}" for part, count in counts.items())
    print(printable(f"{config.root}: made data in the layout of {config.dataset}, {made}"))
