"""Trains the finder: whole pictures made of rendered hands, see rendering/whole_pictures.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...runtime.checks import expect_positive
from ...runtime.distributed import launch, place_model
from ...runtime.files import save_weights
from ...runtime.random import generator
from ...runtime.runs import Losses, Run
from ...steps import take_step
from ..datasets.packed import Packed
from ..network.augment import NONE, Augmentation, change_colours
from ..network.finder import FINDER_PX, Finder, finder_loss, peaks
from ..rendering.scenes import stream
from ..rendering.whole_pictures import Hands, empty_pictures, whole_picture
from .inputs import checksums_of_sets
from .settings import Flat, OptimConfig

AUGMENTATION = Augmentation(colour=0.35, noise=0.04, erase=0.15)
EMPTY_PICTURES = 1000
TEST_PICTURES = 1000
SURE = 0.3  # score of what is called a hand
TEST = 1_000_000_000  # added to the numbers of test pictures


@dataclass(frozen=True)
class TrainFinder:
    """Settings of the finder's training."""

    sets: tuple[str, ...]
    """Packed sets of rendered hands: near ones, and some with much around them."""
    test: tuple[str, ...]
    out: str = "runs/finder"
    pictures: int = 120_000
    """Whole pictures, each seen once an epoch."""
    optim: Annotated[OptimConfig, Flat] = field(
        default_factory=lambda: OptimConfig(epochs=1, lr=2e-3, schedule="cosine")
    )

    def __post_init__(self) -> None:
        expect_positive(self, "pictures")


class WholeBatch(NamedTuple):
    """pictures: normalised. boxes: as finder_targets takes them."""

    pictures: Float[Tensor, "b 3 px px"]
    boxes: list[Float[Tensor, "_ 5"]]


class WholePictures:
    """Draws batches of whole pictures; each follows from the seed and its number."""

    def __init__(self, folders: tuple[str, ...], seed: int) -> None:
        packed = [Packed(folder) for folder in folders]
        self.hands = [Hands.of(one.rgb, one.joints_mm, one.K) for one in packed]
        self.empty = empty_pictures(EMPTY_PICTURES, FINDER_PX, seed)
        self.seed = seed

    def batch(self, first: int, count: int, augmentation: Augmentation = NONE) -> WholeBatch:
        """The pictures of these numbers."""
        drawn = [
            whole_picture(stream("whole", self.seed, first + i), self.hands, self.empty, FINDER_PX)
            for i in range(count)
        ]
        pixels = torch.from_numpy(np.stack([picture for picture, _ in drawn]))
        x = pixels.permute(0, 3, 1, 2).float() / 255
        x = change_colours(x, augmentation, generator("finder", self.seed, first))
        boxes = [torch.from_numpy(boxes).float() for _, boxes in drawn]
        return WholeBatch(x.contiguous(memory_format=torch.channels_last), boxes)


def run(config: TrainFinder) -> dict[str, Any]:
    """Trains, tests, and writes finder.safetensors and the result."""
    inputs = checksums_of_sets(*config.sets, *config.test)
    run = Run(config.out, config, "finder", inputs=inputs)
    if run.result:
        return run.result
    optim = config.optim
    fabric = launch(optim.precision)
    drawn, test = (WholePictures(one, optim.seed) for one in (config.sets, config.test))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(optim.seed)
        model = place_model(Finder(), fabric)
    optimizer = torch.optim.Adam(model.parameters(), optim.lr)
    pictures = max(config.pictures // optim.batch, 1) * optim.batch
    total = optim.epochs * pictures // optim.batch
    with run.claim():
        state: dict[str, Any] = {"model": model, "optimizer": optimizer}
        for step, log in run.steps(total, state, optim.batch):
            optim.set_rate(optimizer, step, total)
            batch = drawn.batch(step * optim.batch % pictures, optim.batch, AUGMENTATION)
            log(learn(model, optimizer, batch, fabric))
        save_weights(run.path("finder.safetensors"), model)
        return run.finish(judge(model, test))


def learn(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: WholeBatch, fabric: Any
) -> Losses:
    """One step."""
    x = batch.pictures.to(fabric.device)
    return take_step(model, optimizer, lambda: finder_loss(model(x), batch.boxes), fabric.autocast)


@torch.inference_mode()
def judge(model: torch.nn.Module, test: WholePictures) -> dict[str, Any]:
    """Shares of the hands that are found, of the pictures with more; how far off they are.

    Found: a peak of score SURE within a quarter of the box's side of its middle.
    """
    model.eval()
    device = next(model.parameters()).device
    hands = found = false = 0
    sizes: list[float] = []
    turns: list[float] = []
    for first in range(0, TEST_PICTURES, 50):
        batch = test.batch(TEST + first, 50)
        maps = model(batch.pictures.to(device))
        for picture, boxes in enumerate(batch.boxes):
            peak_list = peaks(maps.said(picture), SURE, 10)
            near: set[int] = set()
            for x, y, side, right, down in boxes.tolist():
                hands += 1
                for number, one in enumerate(peak_list):
                    if max(abs(one.x - x), abs(one.y - y)) > side / 4:
                        continue
                    if number not in near:
                        found += 1
                        sizes.append(abs(float(np.log(one.side / side))))
                        cosine = one.towards[0] * right + one.towards[1] * down
                        turns.append(float(np.rad2deg(np.arccos(np.clip(cosine, -1, 1)))))
                    near.add(number)
                    break
            false += len(peak_list) > len(near)
    return {
        "found": round(found / max(hands, 1), 4),
        "pictures_with_more": round(false / TEST_PICTURES, 4),
        "size_off": round(float(np.exp(np.mean(sizes))) - 1, 4) if sizes else None,
        "median_turn_off_deg": round(float(np.median(turns)), 1) if turns else None,
    }
