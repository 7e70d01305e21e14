"""`cmkg target`: the student on a target without depth, on F = L_REG + R(theta; phi).

Eq. 9, Algorithm 2.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...prior.parameters import fingerprint
from ...prior.prior import Prior
from ...runtime.checks import expect_at_least_one, expect_between, expect_from_zero
from ...runtime.distributed import place_model
from ...runtime.run import Losses
from ...training.step import take_step
from ..datasets.packed.format import Packed
from ..datasets.packed.labelled_set import FrameRange, open_frames, open_source
from ..network.augment import Augmentation
from ..network.loader import Loader, convention_matrix, read_answers
from ..network.pose import HandBatch, Pose
from ..network.pose_loss import loss_of
from ..network.posenet import NetConfig, PoseNet, pose_net
from ..skeleton import bone_scale
from ..stages.finished_run import FinishedRun, load_start
from ..stages.stage_run import StageRun
from ..stages.stage_settings import Flat, OptimConfig

HISTOGRAM_EDGES = np.linspace(-1, 1, 201)


@dataclass(frozen=True)
class TargetData:
    """The packed sets of a target."""

    data: str = "data/target"
    test: str = "data/target-test"
    frames: FrameRange | None = None
    """Train on these frames [first, last) of `data`; None = all."""
    validation: FrameRange | None = None
    """Score on these frames of `data` instead of `test`."""


@dataclass(frozen=True)
class Alongside:
    """A packed set whose samples join each batch of the target's training."""

    alongside: str = ""
    """A packed set: each batch is joined by as many of its samples, their labels in the target's
    bone convention."""
    alongside_labels: int = 0
    """So many of them have labels, drawn by --label-seed as in the source's stages; 0 = all."""
    label_seed: int = 0
    alongside_answers: str = ""
    """answers.npz of a distilled student's folder (--cached there): the teacher's answers on all
    samples take their labels' place."""

    def __post_init__(self) -> None:
        expect_from_zero(self, "alongside_labels")
        if (self.alongside_labels or self.alongside_answers) and not self.alongside:
            raise InputError("--alongside-labels, --alongside-answers: give --alongside, their set")
        if self.alongside_labels and self.alongside_answers:
            raise InputError(
                "--alongside-labels beside --alongside-answers: answers take all labels' place"
            )


@dataclass(frozen=True)
class Regulariser:
    """R of Eq. 10."""

    prior: str = ""
    """A prior's file; empty = phi_i = sigma for all weights (plain l1, l2; with centre L2-SP)."""
    sigma: float = 0.0
    """With a prior: phi is scaled to this root mean square (its strength), 0 = as it was learned.
    Without: the constant, 0 = none."""
    per_layer: bool = False
    """Scale phi in each layer, not over the whole: otherwise one layer dominates the norm."""
    exponent: int = 2
    """p, for the constant; a prior's file has its own."""
    parameters: Literal["weights", "all"] = "weights"
    """Which parameters the constant holds: tensors of two dimensions or more, or all, as Eq. 10
    says."""
    centre: str = ""
    """Weights theta* around which R is centred; empty = zero, as in the paper."""
    permuted: bool = False
    """Control: phi permuted within each layer."""
    layer_mean: bool = False
    """Control: each layer's phi replaced by its mean."""
    function_weight: float = 0.0
    """A prior on what the student says, not on its weights: the loss's distance to what its start
    says of the same pictures, times this."""
    coupled: bool = True
    """True: R's gradient goes through Adam (the paper's F). False: decoupled decay (Eq. 16)."""

    def __post_init__(self) -> None:
        if self.exponent not in (1, 2):
            raise InputError(f"--exponent: expected 1 or 2, got {self.exponent}")
        expect_from_zero(self, "function_weight")
        expect_between(self, 0, 1e12, "sigma")


@dataclass(frozen=True)
class Target:
    """Settings of a training on the target."""

    out: str = "runs/target"
    student: str = "runs/student"
    """Folder of the source student: its architecture and theta_0."""
    source: str = "data/source"
    """The source's packed set: its bone convention, for weights that were trained there."""
    start: str = ""
    """Weights to start from; empty = theta_0."""
    fresh: int = 0
    """Control: a number gives theta_0 anew from that seed, which phi does not belong to; 0 = the
    student's."""
    scale: Literal["frame", "set"] = "frame"
    """The unit of the student's joints. frame: the protocol's, each frame's own annotated bone.
    set: the training frames' mean bone, for a target of one person: an annotator's bone varies from
    frame to frame (by 9 % on the real hands). The test frames' bones are then not used."""
    test_time_rotations_deg: tuple[float, ...] = (0.0,)
    """A test prediction is the mean over pictures turned by these angles; (0,) is the paper's."""
    target: Annotated[TargetData, Flat] = field(default_factory=TargetData)
    joined: Annotated[Alongside, Flat] = field(default_factory=Alongside)
    regulariser: Annotated[Regulariser, Flat] = field(default_factory=Regulariser)
    optim: Annotated[OptimConfig, Flat] = field(default_factory=OptimConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        expect_at_least_one(self, "test_time_rotations_deg")


def load_regulariser(config: Target, model: nn.Module, packed: Packed) -> Prior | None:
    """The prior of this row, or None.

    Raises:
        InputError: its file is not a prior of this network, or a setting would not act.
    """
    settings = config.regulariser
    if settings.per_layer and not (settings.prior and settings.sigma):
        raise InputError("--per-layer: it is of a prior's strength; give --prior and --sigma")
    if settings.centre and not (settings.sigma or settings.prior):
        raise InputError(
            "--centre: nothing holds the weights there; give --sigma, its strength, or --prior"
        )
    if not (settings.sigma or settings.prior):
        return None
    centre = load_centre(config, packed)
    if not settings.prior:
        return Prior.constant(model, settings.sigma, settings.exponent, settings.parameters, centre)
    prior = Prior.load(settings.prior)
    prior.bind(model)
    if not config.start:
        prior.check_start(model)
    if settings.permuted:
        prior = prior.permuted(seed=config.optim.seed)
    if settings.layer_mean:
        prior = prior.layer_mean()
    if centre:  # around given weights a negative phi would push away from them without bound
        prior = prior.floored(0.0).centred(centre)
    return prior.with_rms(settings.sigma, settings.per_layer) if settings.sigma else prior


def load_centre(config: Target, packed: Packed) -> dict[str, nn.Parameter] | None:
    """theta* that R is centred around; None is zero."""
    if not config.regulariser.centre:
        return None
    student = FinishedRun(Path(config.student))
    around = load_start(config.regulariser.centre, student, config.source, packed)
    return dict(around.model.named_parameters())


def run(config: Target) -> dict[str, Any]:
    """Trains, tests, and writes target.safetensors, predictions and the result."""
    data, regulariser = config.target, config.regulariser
    student_run = FinishedRun(Path(config.student))
    inputs: dict[str, str | FinishedRun] = {
        "data": data.data,
        "test": "" if data.validation else data.test,
        "alongside": config.joined.alongside,
        "alongside_answers": config.joined.alongside_answers,
        "student": student_run,
        "source": config.source,
        "start": config.start,
        "prior": regulariser.prior,
        "centre": regulariser.centre,
    }
    stage = StageRun(config, "target student", inputs, config.optim.precision)
    if stage.result:
        return stage.result
    packed = Packed(data.data)
    test_set = open_frames(packed if data.validation else Packed(data.test), data.validation)
    train_set = open_frames(packed, data.frames)
    start, net = load_start(config.start, student_run, config.source, packed)
    if config.fresh:
        start = pose_net(net, seed=config.fresh)
    bone_mm = float(bone_scale(np.array(packed.joints_mm[train_set.rows])).mean())
    to_unit_(start, bone_mm if config.scale == "set" else 0.0, bone_mm)
    prior = load_regulariser(config, start, packed)
    loader = Loader(
        train_set,
        net.px,
        stage.device,
        augmentation=config.augmentation,
        upright=net.upright,
    )
    test = Loader(test_set, net.px, stage.device, upright=net.upright)
    source_loader = alongside_loader(config, net, stage.device)
    loss = loss_of(net, packed.bone_mm)

    theta_start = fingerprint(start)
    weight = regulariser.function_weight
    before = copy.deepcopy(start).to(stage.device).eval() if weight else None
    model = place_model(start, stage.fabric)
    optimizer = torch.optim.Adam(model.parameters(), config.optim.lr)

    def update(batch: HandBatch, step: int) -> Losses:
        if config.scale == "set":
            batch = in_set_scale(batch, bone_mm)
        if source_loader is not None:
            more = source_loader.training_batch(
                config.optim.seed, step, len(batch), stage.fabric, stream="source"
            )
            matrix = convention_matrix(source_loader.data.first, packed)
            batch = batch.join(to_labels(more).to_convention(matrix))

        def losses_of() -> dict[str, Tensor]:
            prediction = model(batch.picture("rgb"))
            losses = {"regression": loss(prediction, batch.labels)}
            if before is not None:
                with torch.no_grad():
                    earlier = before(batch.picture("rgb"))
                losses["function"] = weight * loss(prediction, Pose(earlier.joints, earlier.uv))
            return losses

        return take_step(model, optimizer, losses_of, stage.fabric.autocast)

    with stage.claim():
        state: dict[str, Any] = {"model": model, "optimizer": optimizer}
        pull: AbstractContextManager[Any] = nullcontext()
        if prior is not None:
            pull = prior.attach(optimizer, model, regulariser.coupled)
        with pull:
            stage.train(config.optim, loader, state, update)
        stage.save("target", model, theta_start=theta_start)
        result = stage.test(model, test, config.test_time_rotations_deg)
        result |= {"weights": weight_histogram(model)}
        return stage.finish(result, "A hand student, trained on the target")


def alongside_loader(config: Target, net: NetConfig, device: torch.device) -> Loader | None:
    """Draws what joins each batch: labelled samples, or all with a teacher's answers.

    Raises:
        InputError: there are not so many samples; answers of another set.
    """
    settings = config.joined
    if not settings.alongside:
        return None
    data = open_source(settings.alongside, "", settings.alongside_labels, settings.label_seed)
    answers = None
    if settings.alongside_answers:
        answers = read_answers(settings.alongside_answers, len(data))
    return Loader(
        data,
        net.px,
        device,
        augmentation=config.augmentation,
        answers=answers,
        upright=net.upright,
    )


def to_labels(batch: HandBatch) -> HandBatch:
    """The batch with a teacher's answers, where it has some, in its labels' place."""
    if batch.answers is None:
        return batch
    joints, uv, _ = batch.answers
    return replace(batch, joints=joints, uv=batch.uv if uv is None else uv, answers=None)


def to_unit_(model: PoseNet, unit_mm: float, mean_bone_mm: float) -> None:
    """Gives a student the unit of its joints, 0 being each hand's own bone.

    The unit is a factor of its last step, as the convention is: no weight moves.
    """
    earlier = float(model.unit_mm)
    if earlier:
        model.convention.mul_(earlier / mean_bone_mm)
    model.unit_mm.fill_(unit_mm)


def in_set_scale(batch: HandBatch, bone_mm: float) -> HandBatch:
    """The batch with its joints in units of the set's mean bone."""
    return replace(batch, joints=batch.joints * (batch.scale_mm / bone_mm)[:, None, None])


def weight_histogram(model: nn.Module) -> dict[str, Any]:
    """Counts of all convolution and linear weights (Fig. 5); the outer bins hold those beyond."""
    tensors = [t.detach().flatten().cpu() for t in model.parameters() if t.dim() >= 2]
    weights = torch.cat(tensors).numpy()
    return {
        "edges": HISTOGRAM_EDGES.round(4).tolist(),
        "counts": np.histogram(weights.clip(-1, 1), HISTOGRAM_EDGES)[0].tolist(),
        "near_zero": float((np.abs(weights) < 1e-3).mean()),
        "rms": float(np.sqrt((weights**2).mean())),
    }


SETTINGS = Target
