"""`cmkg data make`: writes synthetic data in the layout of a dataset."""

from __future__ import annotations

from dataclasses import dataclass

from ...runtime.checks import expect_from_zero, expect_positive
from ...runtime.text import printable


@dataclass(frozen=True)
class MakeSynthetic:
    """Write synthetic data (rendered hands) in the exact layout of a dataset."""

    dataset: str
    """The dataset whose layout is written: folder, rhd, stb, freihand, dexycb, ho3d or
    interhand."""
    root: str
    """Output folder."""
    count: int = 40
    """Number of training pictures (STB: rounded to twelve sequences; folder: all of its
    records)."""
    seed: int = 0

    def __post_init__(self) -> None:
        expect_positive(self, "count")
        expect_from_zero(self, "seed")


def run(config: MakeSynthetic) -> None:
    """Writes synthetic data."""
    from ..synthesis.synthetic import make_dataset  # needs a rasterizer, only for rendered pictures

    counts = make_dataset(config.dataset, config.root, config.count, config.seed)
    parts = ", ".join(f"{part} {count}" for part, count in counts.items())
    print(printable(f"{config.root}: synthetic data in the layout of {config.dataset}, {parts}"))


SETTINGS = MakeSynthetic
