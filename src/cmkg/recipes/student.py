"""`cmkg student`: f(x; theta) on the source's RGB, with L_REG (Eq. 1). Keeps theta_0, where
every target row starts."""

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
    finish_student,
    labels,
    loss_cm,
    positive,
    predict,
    save_predictions,
    score,
    set_lr,
    training_batches,
)


@dataclass(frozen=True)
class Student:
    data: str = "data/source"
    extra: str = ""
    """Packed set mixed into `data`, its joints in the convention of `data`: the paper's
    synthetic augmentation."""
    test: str = "data/source-test"
    out: str = "runs/student"
    start: str = ""
    """Weights to start from; empty = random ones from the seed, kept as theta_0.safetensors."""
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
    epochs: int = 100
    batch: int = 32
    lr: float = 2.5e-4
    schedule: Literal["constant", "cosine"] = "constant"
    """The paper's is constant."""
    seed: int = 0
    precision: Precision = "auto"
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self):
        positive(self, "epochs", "batch", "lr", "width", "px", "heatmap_weight")


def run(config: Student):
    run = engine.Run(config.out, config)
    if run.result:
        return run.result
    fabric, packed, test = (
        engine.launch(config.precision),
        opened(config.data, config.extra),
        Packed(config.test),
    )
    model = pose_net(config.backbone, config.width, 3, config.seed, config.head, config.stem_stride)
    if config.start:
        engine.load_weights(config.start, model)
    engine.save_weights(run.folder / "theta_0.safetensors", model)
    model = engine.placed(model, fabric)
    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    loss = loss_cm(packed, config.heatmap_weight)
    for step, total, batch, log in training_batches(
        run, config, packed, {"model": model, "optimizer": optimizer}, fabric
    ):
        set_lr(optimizer, config, step, total)
        log(
            supervised_step(
                model,
                optimizer,
                channels_last(batch["rgb"]),
                labels(batch),
                loss,
                context=fabric.autocast,
                average=engine.averaged(fabric),
            )
        )
    engine.save_weights(run.folder / "student.safetensors", model)
    predicted = predict(model, test, config.px, fabric)
    save_predictions(run.folder / "predictions.npz", *predicted)
    return finish_student(run, config, score(*predicted), "A hand student, trained on the source")
