"""`cmkg lookalikes`: rendered hands in the poses, views, backgrounds and convention of a target,
to train beside it."""

from dataclasses import asdict, dataclass
from pathlib import Path

from .. import engine
from ..errors import InputError
from ..hands.datasets.packed import Packed, pack
from ..hands.fit import fit
from ..hands.lookalikes import LookAlikes
from ..hands.mesh import anny_hand
from .common import block, from_zero, positive


@dataclass(frozen=True)
class LookAlike:
    data: str = "data/target"
    """The target's packed training set: pictures and joints, no depth."""
    out: str = "data/lookalikes"
    """Folder of the packed look-alikes; the fit to the target's joints is written beside it,
    with its pictures."""
    count: int = 6000
    frames: tuple[int, int] | None = None
    """Only these frames [first, last) of `data` are looked at; None = all."""
    mixed: float = 0.5
    """Share of fingers that take another frame's angles."""
    free: float = 0.5
    """Share of hands that are posed and turned as in the source."""
    views_deg: float = 90.0
    """Largest angle between palm and camera of these."""
    jitter_deg: float = 6.0
    """Spread of the joint angles around a frame's."""
    turn_deg: float = 15.0
    """Spread of the orientation around a frame's, about each axis."""
    own_background: float = 0.6
    """Share of hands before a picture of the target whose hand is painted out."""
    seed: int = 0
    workers: int = 0
    """Processes; 0 = one a core."""

    def __post_init__(self):
        positive(self, "count")
        from_zero(self, "jitter_deg", "turn_deg", "seed", "workers")
        for name in ("mixed", "free", "own_background"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"--{name.replace('_', '-')}: expected a share from 0 to 1, got "
                    f"{getattr(self, name)}"
                )


def run(config: LookAlike):
    packed = Packed(config.data)
    first, last = block(packed, config.frames)
    path = Path(f"{config.out}-fit.npz")
    if not path.exists():
        engine.on_first_rank(lambda: lay(packed.joints_mm[first:last], path))
    settings = {
        n: v for n, v in asdict(config).items() if n not in ("data", "out", "workers", "frames")
    }
    hands = LookAlikes(
        config.data,
        str(path),
        frames=(first, last),
        px=packed.meta["arrays"]["rgb"][0][1],
        margin=packed.meta["margin"],
        **settings,
    )
    return pack(hands, config.out, config.workers or None)


def lay(joints_mm, path):
    """Lays the open hand into the joints and writes the fit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = fit(anny_hand(), joints_mm)
    engine.say(
        f"the hand in {len(joints_mm)} frames: {found.residual_mm.mean():.1f} mm from the "
        "joints on average"
    )
    engine.write_arrays(path, **vars(found))
