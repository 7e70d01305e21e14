"""`cmkg teacher`: g(x~; psi) on the source's depth maps, with L_REG (Eq. 1)."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from .. import engine
from ..engine import Precision
from ..hands.augment import Augmentation
from ..hands.datasets.packed import Packed
from ..hands.model import pose_net
from ..steps import supervised_step
from .common import channels_last, loss_cm, positive, predict, score, set_lr, training_batches


@dataclass(frozen=True)
class Teacher:
    data: str = "data/source"
    """Packed set with depth."""
    test: str = "data/source-test"
    out: str = "runs/teacher"
    backbone: str = "resnet18"
    width: float = 1.0
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
        positive(self, "epochs", "batch", "lr", "width", "px")


def run(config: Teacher):
    run = engine.Run(config.out, config)
    if run.result:
        return run.result
    fabric, packed, test = engine.launch(config.precision), Packed(config.data), Packed(config.test)
    model = pose_net(config.backbone, config.width, in_channels=1, seed=config.seed + 1000).to(fabric.device)
    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    loss = loss_cm(packed)
    for step, total, batch, log in training_batches(
        run, config, packed, {"model": model, "optimizer": optimizer}, fabric, ("depth",)
    ):
        set_lr(optimizer, config, step, total)
        log(supervised_step(model, optimizer, channels_last(batch["depth"]), batch["joints"], loss,
                            context=fabric.autocast, average=engine.averaged(fabric)))  # fmt: skip
    engine.save_weights(run.folder / "teacher.safetensors", model)
    return run.finish(score(*predict(model, test, config.px, fabric, "depth")))
