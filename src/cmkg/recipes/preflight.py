"""`cmkg preflight`: a short run on packed sets that says whether distilling, transfer and the
prior are likely to help."""

from dataclasses import dataclass

import torch

from .. import engine
from ..errors import InputError
from ..hands.augment import Augmentation
from ..hands.datasets.packed import Packed
from ..hands.metrics import errors_mm
from ..hands.model import Head, pose_net
from ..preflight import preflight, told
from ..training import Fields
from .common import (
    at_least_one,
    channels_last,
    conversion,
    converted,
    fetch,
    labels,
    loss_cm,
    positive,
)


@dataclass(frozen=True)
class Preflight:
    source: str = "data/source"
    """Packed set with depth."""
    source_test: str = "data/source-test"
    target: str = "data/target"
    target_test: str = "data/target-test"
    out: str = "runs/preflight"
    samples: int = 2000
    """At most so many of each training set, 500 of each test set."""
    epochs: int = 4
    backbone: str = "resnet18"
    width: float = 0.25
    head: Head = "pooled"
    px: int = 64
    batch: int = 32
    lr: float = 1e-3
    sigmas: tuple[float, ...] = (1.0, 10.0, 100.0)
    seed: int = 0

    def __post_init__(self):
        positive(self, "samples", "epochs", "width", "px", "batch", "lr")
        at_least_one(self, "sigmas")


class Batches:
    """A packed set as an iterable of batches: {"rgb", "depth" when there is one, "y"}, evenly
    over the set."""

    def __init__(self, packed, config, most, matrix=None, augmentation=None):
        self.packed, self.config, self.matrix, self.augmentation, self.passes = (
            packed,
            config,
            matrix,
            augmentation,
            0,
        )
        self.rows = torch.linspace(0, len(packed) - 1, min(most, len(packed))).round().long()

    def __len__(self):
        return (len(self.rows) + self.config.batch - 1) // self.config.batch

    def __iter__(self):
        c, self.passes = self.config, self.passes + 1
        kinds = ("rgb", "depth") if self.packed.depth is not None else ("rgb",)
        draws = engine.generator("preflight", c.seed, self.passes)
        order = self.rows[torch.randperm(len(self.rows), generator=draws)]
        more = {"augmentation": self.augmentation} if self.augmentation else {}
        for rows in order.split(c.batch):
            batch = fetch(self.packed, rows.numpy(), c.px, "cpu", kinds, generator=draws, **more)
            batch = converted(batch, self.matrix) if self.matrix is not None else batch
            yield {k: channels_last(batch[k]) for k in kinds} | {"y": labels(batch)}


def run(config: Preflight):
    run = engine.Run(config.out, config)
    if run.result:
        print(run.result["text"])
        return run.result
    source, test, target, target_test = (
        Packed(getattr(config, n)) for n in ("source", "source_test", "target", "target_test")
    )
    if config.epochs * (min(config.samples, len(source)) // config.batch) < 2:
        raise InputError(
            f"--samples, --epochs, --batch: expected at least two steps, got {config.epochs} "
            f"epochs of {min(config.samples, len(source))} samples "
            f"in batches of {config.batch}"
        )
    # one convention: the target's
    to_target, mild = conversion(source, target), Augmentation(15, 0.03, 0.05, 0.15, 0, 0)
    data = (
        Batches(source, config, config.samples, to_target, mild),
        Batches(test, config, 500, to_target),
        Batches(target, config, config.samples, None, mild),
        Batches(target_test, config, 500),
    )

    def net(channels):
        return pose_net(config.backbone, config.width, channels, config.seed, config.head, 2)

    bone = torch.tensor(target.meta["bone_mm"])

    def error(prediction, y):
        return errors_mm(prediction[..., :3].float(), y[..., :3], bone.expand(len(y)).to(y)).mean()

    report = preflight(
        lambda: net(3),
        lambda: net(1),
        *data,
        loss_cm(target, 100.0),
        error,
        fields=Fields("rgb", "depth", "y"),
        epochs=config.epochs,
        lr=config.lr,
        alpha=5e-5,
        beta=1e-3,
        sigmas=config.sigmas,
        attention_weight=1e3,
    )
    text = told(report)
    print(text)
    return run.finish(report | {"text": text})
