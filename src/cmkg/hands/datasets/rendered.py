"""Rendered hands: paired RGB and depth, or "STB-like" RGB sequences of one person. See
scenes.SceneConfig."""

from dataclasses import asdict, dataclass

from ..scenes import SceneConfig, draw
from .sample import Sample


@dataclass(frozen=True)
class Rendered:
    config: SceneConfig
    count: int
    first: int = 0
    """Number of the first scene: other ranges of one seed are other scenes."""
    with_depth: bool = True
    device: str = "cpu"

    def __len__(self):
        return self.count

    def samples(self, indices):
        drawn = draw(self.config, [self.first + int(i) for i in indices], self.device)
        return [
            Sample(
                d["rgb"],
                d["joints_mm"],
                d["K"],
                d["rotation"],
                d["depth"] if self.with_depth else None,
            )
            for d in drawn
        ]

    def describe(self):
        return {
            "dataset": "rendered",
            "count": self.count,
            "first": self.first,
            "with_depth": self.with_depth,
            **asdict(self.config),
        }
