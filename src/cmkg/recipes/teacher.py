"""`cmkg teacher`: g(x~; psi) on the source's depth maps, with L_REG (Eq. 1)."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from .. import engine
from ..engine import Precision
from ..hands.augment import Augmentation
from ..hands.datasets.packed import Packed, opened
from ..hands.model import Head, pose_net
from ..steps import supervised_step
from .common import (
    channels_last,
    labels,
    loss_cm,
    positive,
    predict,
    score,
    set_lr,
    training_batches,
)


@dataclass(frozen=True)
class Teacher:
    data: str = "data/source"
    """Packed set with depth."""
    extra: str = ""
    """Packed set mixed into `data`, its joints in the convention of `data`: the paper's
    synthetic augmentation."""
    test: str = "data/source-test"
    out: str = "runs/teacher"
    backbone: str = "resnet18"
    width: float = 1.0
    head: Head = "pooled"
    """pooled: the paper's. integral: heatmaps, their centres of mass, the depth there; far
    better after short training."""
    stem_stride: Literal[2, 4] = 4
    """4 is ResNet's own; 2 for pictures of 64 px."""
    heatmap_weight: float = 100.0
    """Of the integral head's heatmap loss beside L_REG, in its unit, cm^2."""
    px: int = 256
    epochs: int = 200
    batch: int = 32
    lr: float = 2.5e-4
    schedule: Literal["constant", "cosine"] = "constant"
    """The paper's is constant."""
    seed: int = 0
    precision: Precision = "auto"
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self):
        positive(self, "epochs", "batch", "lr", "width", "px", "heatmap_weight")


def run(config: Teacher):
    run = engine.Run(config.out, config)
    if run.result:
        return run.result
    fabric, packed, test = (
        engine.launch(config.precision),
        opened(config.data, config.extra),
        Packed(config.test),
    )
    model = engine.placed(
        pose_net(
            config.backbone, config.width, 1, config.seed + 1000, config.head, config.stem_stride
        ),
        fabric,
    )
    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    loss = loss_cm(packed, config.heatmap_weight)
    for step, total, batch, log in training_batches(
        run, config, packed, {"model": model, "optimizer": optimizer}, fabric, ("depth",)
    ):
        set_lr(optimizer, config, step, total)
        log(
            supervised_step(
                model,
                optimizer,
                channels_last(batch["depth"]),
                labels(batch),
                loss,
                context=fabric.autocast,
                average=engine.averaged(fabric),
            )
        )
    engine.save_weights(run.folder / "teacher.safetensors", model)
    return run.finish(score(*predict(model, test, config.px, fabric, "depth")))
