"""`cmkg data inspect`: draws a contact sheet of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from ...errors import InputError
from ...runtime.checks import expect_new_file, expect_positive
from ...runtime.files import write_atomically
from ...runtime.text import printable
from ..datasets.sample import Frame, Recording
from ..datasets.stb import Stb
from ..datasets.subset import Subset
from ..stages.stage_settings import Flat
from ..stages.which_dataset import Which, open_dataset


@dataclass(frozen=True)
class Inspect:
    """Draw a contact sheet: pictures and depth maps with their joints; also print the counts."""

    which: Annotated[Which, Flat]
    out: str = "runs/inspect.png"
    """Output file: the contact sheet."""
    count: int = 8
    """Number of samples, evenly spaced over the split; --indices selects specific ones instead."""
    tile: int = 320
    """Width and height of each picture on the sheet, in pixels."""

    def __post_init__(self) -> None:
        expect_positive(self, "count", "tile")


def run(config: Inspect) -> None:
    """Draws the contact sheet and prints the counts."""
    from ..report.plots import contact_sheet

    expect_new_file(config.out, ".png", config.which.root)
    dataset = open_dataset(config.which)
    for name, value in dataset.describe().items():
        print(printable(f"{name:13} {value}"))
    last = len(dataset) - 1
    count = last + 1 if config.which.indices else min(config.count, last + 1)
    numbers = np.linspace(0, last, count).round().astype(int)
    sheet_path = Path(config.out).resolve()
    if any(sheet_path == path.resolve() for n in numbers for path in dataset.files(int(n))):
        raise InputError(f"--out {config.out}: is a picture that is read; choose another name")
    frames = [dataset.frame(int(number)) for number in numbers]
    columns = [
        draw_sample(dataset, int(number), frame, config.tile)
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
    """A sample's number in the complete set, and the side of its hand."""
    number = dataset.numbers[i] if isinstance(dataset, Subset) else i
    side = "left" if frame.left else "right"
    return f"{number}, {side}" + ("" if frame.labelled else ",\nno label")


def draw_sample(dataset: Recording, i: int, frame: Frame, tile: int = 320) -> dict[str, np.ndarray]:
    """{label: picture} of one sample: as stored on disk, as packed, and its other images."""
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


SETTINGS = Inspect
