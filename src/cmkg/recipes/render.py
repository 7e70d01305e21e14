"""`cmkg render`: draws a packed set of hands."""

from dataclasses import dataclass

from ..errors import InputError
from ..hands.datasets.packed import Shard, pack
from ..hands.datasets.rendered import Rendered
from ..hands.scenes import SceneConfig
from .common import from_zero, positive, reasonable_margin


@dataclass(frozen=True)
class Render:
    out: str = "data/source"
    """Folder of the packed set."""
    count: int = 20_000
    first: int = 0
    """Number of the first scene."""
    px: int = 80
    """Stored pixels; networks read px / margin of them."""
    margin: float = 1.25
    seed: int = 0
    views_deg: float = 180.0
    """Largest angle between palm and camera; 180 shows both faces of the hand."""
    wide: bool = False
    """Hands turned by any angle in the picture's plane, half of them gestures: fingers stretched
    or shut, the thumb anywhere."""
    sequences: int = 0
    """0: independent hands with depth. Else STB-like RGB: one person, one camera, this many
    smooth sequences."""
    sequence_offset: int = 0
    frames: int = 500
    """Frames in a sequence."""
    noisy_depth: bool = True
    backgrounds: str = ""
    """Folder of photographs; empty = those inside installed libraries, and generated clutter."""
    mano: str = ""
    """MANO_RIGHT.pkl, or its folder; empty = the open hand that ships with cmkg."""
    textures: str = ""
    """A folder of scans registered to the hand (*.ply with coloured vertices); empty =
    procedural skin."""
    workers: int = 0
    """Processes; 0 = one a core."""
    shard: str = ""
    """i/n: draws the i-th of n parts alone; `cmkg data merge` makes one set of them."""

    def __post_init__(self):
        positive(self, "count", "px", "frames")
        reasonable_margin(self.margin)
        from_zero(self, "first", "seed", "views_deg", "sequences", "sequence_offset", "workers")
        if self.px > 1024 or self.px % 2:
            raise InputError(f"--px: expected an even number up to 1024, got {self.px}")
        if self.wide and (self.sequences or self.mano):
            raise InputError(
                "--wide: is for independent scenes of the hand that ships with cmkg; leave "
                "--sequences and --mano out"
            )


def run(config: Render):
    hands = dataset(config)
    return pack(
        Shard(hands, config.shard) if config.shard else hands, config.out, config.workers or None
    )


def dataset(config):
    names = (
        "seed",
        "px",
        "margin",
        "views_deg",
        "wide",
        "sequences",
        "sequence_offset",
        "frames",
        "noisy_depth",
        "backgrounds",
        "mano",
        "textures",
    )
    scenes = SceneConfig(**{n: getattr(config, n) for n in names})
    return Rendered(scenes, config.count, config.first, with_depth=not config.sequences)
