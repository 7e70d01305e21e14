"""`cmkg student`: trains the RGB student on the source with L_REG (Eq. 1).

The teacher g(x~; psi) reads depth, the student f(x; theta) RGB; this stage trains either (`cmkg
teacher` trains the teacher). theta_0, the start of every target row, is kept with the student.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch

from ...runtime.checks import expect_positive
from ...runtime.distributed import place_model
from ...runtime.run import Losses
from ...runtime.weight_files import load_weights
from ...training.step import take_step
from ..datasets.packed.format import Packed
from ..datasets.packed.labelled_set import open_frames
from ..network.augment import Augmentation
from ..network.loader import Loader
from ..network.pose import HandBatch
from ..network.pose_loss import loss_of
from ..network.posenet import NetConfig, pose_net
from ..stages.finished_run import CHANNELS, ROLES, THETA_0, Modality, expect_bone_unit
from ..stages.stage_run import OPTIMIZER, StageRun, load_optimizer, save_optimizer, second_half
from ..stages.stage_settings import Flat, OptimConfig, SourceData

TEACHER_SEED = 1000  # offset of the seed of the teacher's random weights


@dataclass(frozen=True)
class Source:
    """Train a network on the source."""

    modality: Modality = "rgb"
    """The network's input: depth trains a teacher, rgb a student."""
    out: str = "runs/student"
    start: str = ""
    """File of initial weights, for the second half of a training. Empty: random weights from the
    seed."""
    optimizer_state: str = ""
    """Adam state to continue from: optimizer.pt of the run that produced the weights. Empty: a new
    state."""
    keep_optimizer: bool = False
    """Write Adam's final state to optimizer.pt, which is twice the size of the weights."""
    source: Annotated[SourceData, Flat] = field(default_factory=SourceData)
    net: Annotated[NetConfig, Flat] = field(default_factory=NetConfig)
    optim: Annotated[OptimConfig, Flat] = field(default_factory=OptimConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        expect_positive(self.optim, "epochs")


SETTINGS = Source()


def run(config: Source) -> dict[str, Any]:
    """Trains, tests, and writes <role>.safetensors, predictions and the result."""
    role, source, net = ROLES[config.modality], config.source, config.net
    inputs = {
        "data": source.data,
        "extra": source.extra,
        "test": source.test,
        "start": config.start,
        "optimizer_state": config.optimizer_state,
    }
    stage = StageRun(config, f"{config.modality} {role}", inputs, config.optim.precision)
    if stage.result:
        return stage.result
    data, modalities = source.open(), (config.modality,)
    loader = Loader(
        data, net.px, stage.device, modalities, config.augmentation, upright=net.upright
    )
    test_set = open_frames(Packed(source.test))
    test = Loader(test_set, net.px, stage.device, modalities, upright=net.upright)
    seed = config.optim.seed + (TEACHER_SEED if role == "teacher" else 0)
    start = pose_net(net, CHANNELS[config.modality], seed)
    key = None
    if config.start:
        load_weights(config.start, start)
        expect_bone_unit(start, config.start)
        key = second_half(Path(config.start).parent, config.optim.seed)
    loss = loss_of(net, data.first.bone_mm)
    model = place_model(start, stage.fabric)
    optimizer = torch.optim.Adam(model.parameters(), config.optim.lr)
    if config.optimizer_state:
        load_optimizer(config.optimizer_state, optimizer)

    def update(batch: HandBatch, _step: int) -> Losses:
        def losses_of() -> dict[str, torch.Tensor]:
            return {"regression": loss(model(batch.picture(config.modality)), batch.labels)}

        return take_step(model, optimizer, losses_of, stage.fabric.autocast)

    with stage.claim():
        if role == "student":
            stage.save(THETA_0, model)
        state = {"model": model, "optimizer": optimizer}
        stage.train(config.optim, loader, state, update, key)
        if config.keep_optimizer:
            save_optimizer(stage.path(OPTIMIZER), optimizer)
        stage.save(role, model)
        card = "A hand student, trained on the source" if role == "student" else ""
        return stage.finish(stage.test(model, test), card)
