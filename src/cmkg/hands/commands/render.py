"""`cmkg render`: renders a packed set of hands."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ...errors import InputError
from ...runtime.checks import expect_from_zero, expect_positive
from ..datasets.packed.format import Packed
from ..datasets.packed.pack import Shard, pack
from ..rendering.scenes import SceneConfig
from ..stages.stage_settings import Flat, expect_margin
from ..synthesis.rendered import Rendered

MOST_PX = 1024


@dataclass(frozen=True)
class Render:
    """Render a packed set of hands."""

    out: str = "data/source"
    """Output folder of the packed set."""
    count: int = 20_000
    first: int = 0
    """Number of the first scene."""
    scene: Annotated[SceneConfig, Flat] = field(default_factory=SceneConfig)
    workers: int = 0
    """Number of processes; 0 = one per core."""
    shard: str = ""
    """i/n: render only the i-th of n parts; `cmkg data merge` merges the parts into one set."""

    def __post_init__(self) -> None:
        scene = self.scene
        expect_positive(self, "count")
        expect_positive(scene, "px", "frames")
        expect_margin(scene.margin)
        expect_from_zero(self, "first", "workers")
        expect_from_zero(scene, "seed", "views_deg", "sequences", "sequence_offset")
        if scene.px > MOST_PX or scene.px % 2:
            raise InputError(f"--px: expected an even number up to {MOST_PX}, got {scene.px}")
        if not 0 <= scene.in_front <= 1 or (scene.in_front and scene.sequences):
            raise InputError(
                f"--in-front: expected a share from 0 to 1 of independent scenes, got "
                f"{scene.in_front}"
            )
        if scene.wide and (scene.sequences or scene.mano):
            raise InputError(
                "--wide: is for independent scenes of the hand that ships with cmkg; leave "
                "--sequences and --mano out"
            )


def dataset_of(config: Render) -> Rendered:
    """The scenes that the settings describe; sequences have RGB only."""
    with_depth = not config.scene.sequences
    return Rendered(config.scene, config.count, config.first, with_depth)


def run(config: Render) -> Packed:
    """Renders and packs."""
    hands = dataset_of(config)
    dataset = Shard(hands, config.shard) if config.shard else hands
    return pack(dataset, config.out, config.workers or None)


SETTINGS = Render
