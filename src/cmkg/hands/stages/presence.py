"""Trains what tells hands from other things, and right ones from left ones, looked at closely."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from ...runtime.checks import expect_positive
from ...runtime.distributed import launch, place_model
from ...runtime.files import save_weights
from ...runtime.progress import note
from ...runtime.random import generator
from ...runtime.runs import Losses, Run
from ...steps import take_step
from ..datasets.packed import Packed
from ..network.augment import Augmentation, change_colours
from ..network.presence import PRESENCE_PX, Presence, presence_loss
from ..rendering.scenes import stream
from ..rendering.whole_pictures import Hands, empty_pictures, other_picture
from .fitting import Loader
from .inputs import checksums_of, checksums_of_sets
from .networks import load_network
from .settings import Flat, OptimConfig

# First boxes are the finder's: they are rougher than what the student is trained on.
AUGMENTATION = Augmentation(turn_deg=40, shift=0.1, zoom=0.25, colour=0.3, noise=0.03, erase=0.1)
OTHER_SHARE = 0.25  # of a batch: not a hand
EMPTY_PICTURES = 5000
TEST_BATCHES = 40
TEST = 1_000_000_000  # added to the numbers of test batches


@dataclass(frozen=True)
class TrainPresence:
    """Settings of the training."""

    student: str
    """Folder of a finished student run; its backbone's first stages are where it begins."""
    hands: str
    """Packed set of rendered hands."""
    around: str
    """Packed set with much around the hands: what is not one is cut out of it, too."""
    test: tuple[str, str]
    """Two such sets that were not trained on."""
    out: str = "runs/presence"
    upright: bool = True
    """Hands are seen as a student of NetConfig.upright sees them."""
    pictures: int = 600_000
    optim: Annotated[OptimConfig, Flat] = field(
        default_factory=lambda: OptimConfig(epochs=1, batch=64, lr=1e-3, schedule="cosine")
    )

    def __post_init__(self) -> None:
        expect_positive(self, "pictures")


class Shown(NamedTuple):
    """A batch, normalised; what each is."""

    pictures: Float[Tensor, "b 3 px px"]
    is_hand: Shaped[Tensor, " b"]
    is_right: Shaped[Tensor, " b"]


class Shows:
    """Draws hands of both sides, and other things; each batch follows from seed and number."""

    def __init__(self, hands: str, around: str, upright: bool, seed: int) -> None:
        self.loader = Loader(Packed(hands), PRESENCE_PX, augmentation=AUGMENTATION, upright=upright)
        far = Packed(around)
        self.around = Hands.of(far.rgb, far.joints_mm, far.K)
        self.empty = empty_pictures(EMPTY_PICTURES, PRESENCE_PX, seed)
        self.seed = seed

    def batch(self, number: int, count: int) -> Shown:
        """Hands first, every second one mirrored; then other things."""
        rng = stream("presence", self.seed, number)
        others = round(count * OTHER_SHARE)
        draws = generator("presence", self.seed, number)
        rows = rng.integers(0, len(self.loader), count - others)
        seen = self.loader.fetch(rows, draws).picture("rgb")
        seen[::2] = seen[::2].flip(3)
        drawn = np.stack(
            [other_picture(rng, self.around, self.empty, PRESENCE_PX) for _ in range(others)]
        )
        other = torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255
        pictures = torch.cat([seen, change_colours(other, AUGMENTATION, draws)])
        place = torch.arange(count)
        return Shown(
            pictures.contiguous(memory_format=torch.channels_last),
            place < len(rows),
            (place < len(rows)) & (place % 2 == 1),
        )


def run(config: TrainPresence) -> dict[str, Any]:
    """Trains, tests, and writes presence.safetensors and the result."""
    inputs = checksums_of_sets(config.hands, config.around, *config.test)
    inputs |= checksums_of(student=config.student)
    run = Run(config.out, config, "presence", inputs=inputs)
    if run.result:
        return run.result
    optim = config.optim
    fabric = launch(optim.precision)
    shows = Shows(config.hands, config.around, config.upright, optim.seed)
    test = Shows(*config.test, config.upright, optim.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(optim.seed)
        presence = Presence()
    student, _ = load_network(config.student, "rgb", "student")
    if not presence.begin_from(student.backbone):
        note(f"{config.student}: no stage of it fits; presence begins from random weights")
    model = place_model(presence, fabric)
    optimizer = torch.optim.Adam(model.parameters(), optim.lr)
    total = max(optim.epochs * config.pictures // optim.batch, 1)
    state: dict[str, Any] = {"model": model, "optimizer": optimizer}

    def learn(shown: Shown) -> Losses:
        def losses_of() -> dict[str, Tensor]:
            return presence_loss(
                model(shown.pictures.to(fabric.device)), shown.is_hand, shown.is_right
            )

        return take_step(model, optimizer, losses_of, fabric.autocast)

    with run.claim():
        for step, log in run.steps(total, state, optim.batch):
            optim.set_rate(optimizer, step, total)
            with torch.random.fork_rng(devices=[]):  # of what is dropped
                torch.manual_seed(step)
                log(learn(shows.batch(step, optim.batch)))
        save_weights(run.path("presence.safetensors"), model)
        model.eval()
        right = {"hand": 0, "side": 0}
        hands = 0
        for number in range(TEST_BATCHES):
            shown = test.batch(TEST + number, optim.batch)
            with torch.inference_mode():
                found = model(shown.pictures.to(fabric.device)).cpu() > 0
            right["hand"] += int((found[:, 0] == shown.is_hand).sum())
            right["side"] += int(((found[:, 1] == shown.is_right) & shown.is_hand).sum())
            hands += int(shown.is_hand.sum())
        return run.finish(
            {
                "hand_told": round(right["hand"] / (TEST_BATCHES * optim.batch), 4),
                "side_told": round(right["side"] / hands, 4),
            }
        )
