"""Rendered hands: paired RGB and depth, or STB-like RGB sequences of one person.

See rendering.scenes.SceneConfig.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..datasets.sample import Sample
from ..rendering.backgrounds import digest_of_photographs
from ..rendering.scenes import SceneConfig, draw


@dataclass(frozen=True)
class Rendered:
    """`count` scenes of a configuration."""

    config: SceneConfig
    count: int
    first: int = 0
    """Number of the first scene; different ranges of one seed are different scenes."""
    with_depth: bool = True
    device: str = "cpu"

    def __len__(self) -> int:
        return self.count

    def samples(self, indices: Iterable[int]) -> list[Sample]:
        """Renders scenes."""
        drawn = draw(self.config, [self.first + int(index) for index in indices], self.device)
        return [
            Sample(d.rgb, d.joints_mm, d.K, d.rotation, d.depth if self.with_depth else None)
            for d in drawn
        ]

    def describe(self) -> dict[str, Any]:
        """A description of the set as plain JSON; backgrounds are identified by fingerprint."""
        facts = {
            "dataset": "rendered",
            "count": self.count,
            "first": self.first,
            "with_depth": self.with_depth,
            "photographs": digest_of_photographs(self.config.backgrounds),
        }
        scene = asdict(self.config)
        del scene["backgrounds"]
        if not self.config.in_front:  # keeps the description of sets from before objects existed
            del scene["in_front"]
        return facts | scene
