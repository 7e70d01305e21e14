"""`cmkg teacher` and `cmkg student`: a network on one modality of the source, with L_REG (Eq. 1).

The teacher g(x~; psi) reads depth, the student f(x; theta) RGB. The student keeps theta_0, where
every target row starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch

from ...runtime.checks import expect_positive
from ...runtime.distributed import launch, place_model
from ...runtime.runs import Losses, Run
from ...runtime.weight_files import load_weights, save_weights
from ...steps import take_step
from ..datasets.packed import Packed, open_training_set
from ..network.augment import Augmentation
from ..network.pose import HandBatch
from ..network.pose_loss import loss_of
from ..network.posenet import NetConfig, pose_net
from .fitting import (
    OPTIMIZER,
    Loader,
    fit,
    labelled_numbers,
    load_optimizer,
    save_optimizer,
    second_half,
)
from .inputs import checksums_of
from .networks import CHANNELS, ROLES, THETA_0, Modality, expect_own_unit
from .predicting import predict, save_predictions, score
from .settings import Flat, OptimConfig, SourceData
from .student_card import finish_student

TEACHER_SEED = 1000  # added to the seed of the teacher's random weights


@dataclass(frozen=True)
class Source:
    """Settings of a training on the source."""

    modality: Modality = "rgb"
    """What the network sees: depth makes a teacher, rgb a student."""
    out: str = "runs/student"
    start: str = ""
    """Weights to start from, for the second half of a training; empty = random ones from the
    seed."""
    optimizer_state: str = ""
    """Adam's state to go on with: optimizer.pt of the run that the weights are from; empty = begun
    anew."""
    keep_optimizer: bool = False
    """Write Adam's state at the end to optimizer.pt, twice the weights' size."""
    source: Annotated[SourceData, Flat] = field(default_factory=SourceData)
    net: Annotated[NetConfig, Flat] = field(default_factory=NetConfig)
    optim: Annotated[OptimConfig, Flat] = field(default_factory=OptimConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        expect_positive(self.optim, "epochs")


TEACHER = Source(modality="depth", out="runs/teacher", optim=OptimConfig(epochs=200))
STUDENT = Source()


def run(config: Source) -> dict[str, Any]:
    """Trains, tests, and writes <role>.safetensors, predictions and the result."""
    role = ROLES[config.modality]
    source = config.source
    inputs = checksums_of(
        data=source.data,
        extra=source.extra,
        test=source.test,
        start=config.start,
        optimizer_state=config.optimizer_state,
    )
    run = Run(config.out, config, f"{config.modality} {role}", inputs=inputs)
    if run.result:
        return run.result
    fabric = launch(config.optim.precision)
    packed = open_training_set(config.source.data, config.source.extra)
    px, modalities = config.net.px, (config.modality,)
    loader = Loader(
        packed,
        px,
        fabric.device,
        modalities,
        config.augmentation,
        labelled=labelled_numbers(config.source, packed),
        upright=config.net.upright,
    )
    test = Loader(
        Packed(config.source.test), px, fabric.device, modalities, upright=config.net.upright
    )
    seed = config.optim.seed + (TEACHER_SEED if role == "teacher" else 0)
    start = pose_net(config.net, CHANNELS[config.modality], seed)
    if config.start:
        load_weights(config.start, start)
        expect_own_unit(start, config.start)
    own = packed if isinstance(packed, Packed) else packed.first
    loss = loss_of(config.net, own.bone_mm)
    model = place_model(start, fabric)
    optimizer = torch.optim.Adam(model.parameters(), config.optim.lr)
    if config.optimizer_state:
        load_optimizer(config.optimizer_state, optimizer)
    with run.claim():
        if role == "student":
            save_weights(run.path(f"{THETA_0}.safetensors"), model)

        def update(batch: HandBatch, _step: int) -> Losses:
            def losses_of() -> dict[str, torch.Tensor]:
                return {"regression": loss(model(batch.picture(config.modality)), batch.labels)}

            return take_step(model, optimizer, losses_of, fabric.autocast)

        state = {"model": model, "optimizer": optimizer}
        key = None
        if config.start:
            key = second_half(Path(config.start).parent, config.optim.seed)
        fit(run, config.optim, loader, state, fabric, update, key)
        if config.keep_optimizer:
            save_optimizer(run.path(OPTIMIZER), optimizer)
        save_weights(run.path(f"{role}.safetensors"), model)
        predictions = predict(model, test, fabric)
        save_predictions(run.path("predictions.npz"), predictions)
        if role == "teacher":
            return run.finish(score(predictions))
        return finish_student(run, score(predictions), "A hand student, trained on the source")
