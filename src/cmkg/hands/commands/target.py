"""`cmkg target`: trains the student on a target without depth, on F = L_REG + R(theta; phi).

See Eq. 9 and Algorithm 2.
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
    """Train on these frames [first, last) of the training set; None = all."""
    validation: FrameRange | None = None
    """Score on these frames of the training set instead of the test set."""


@dataclass(frozen=True)
class Alongside:
    """A packed set whose samples join each batch of the target's training."""

    alongside: str = ""
    """A packed set: an equal number of its samples is added to each batch, with labels in the
    target's bone convention."""
    alongside_labels: int = 0
    """Number of its samples that have labels, drawn by --label-seed as in the source's stages; 0 =
    all."""
    label_seed: int = 0
    alongside_answers: str = ""
    """answers.npz from the folder of a student distilled with --cached: the teacher's answers
    replace the labels of all its samples."""

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
    """The regularizer R of Eq. 10."""

    prior: str = ""
    """File of a prior. Empty: phi_i = sigma for all weights (plain l1 or l2, or L2-SP if a centre
    is given)."""
    sigma: float = 0.0
    """With a prior: its strength, the root mean square that phi is scaled to; 0 leaves phi
    unchanged. Without a prior: the constant phi; 0 = no regularizer."""
    per_layer: bool = False
    """Scale phi separately in each layer; otherwise one layer dominates the norm."""
    exponent: int = 2
    """The exponent p of a constant phi; the file of a prior contains its own."""
    parameters: Literal["weights", "all"] = "weights"
    """The parameters that a constant phi regularizes: weights = tensors of two or more dimensions,
    all = all parameters, as in Eq. 10."""
    centre: str = ""
    """File of weights theta* that R is centered on. Empty: zero, as in the paper."""
    permuted: bool = False
    """Control: permute phi within each layer."""
    layer_mean: bool = False
    """Control: replace phi by its mean in each layer."""
    function_weight: float = 0.0
    """Weight of a prior on the student's predictions instead of its weights: their distance, in
    the training loss, from the initial student's predictions for the same pictures."""
    coupled: bool = True
    """True: the gradient of R goes through Adam (F in the paper). False: decoupled decay (Eq.
    16)."""

    def __post_init__(self) -> None:
        if self.exponent not in (1, 2):
            raise InputError(f"--exponent: expected 1 or 2, got {self.exponent}")
        expect_from_zero(self, "function_weight")
        expect_between(self, 0, 1e12, "sigma")


@dataclass(frozen=True)
class Target:
    """Train a student on the target."""

    out: str = "runs/target"
    student: str = "runs/student"
    """Folder of the source student, which defines the architecture and theta_0."""
    source: str = "data/source"
    """The source's packed set, which defines the bone convention of weights trained on it."""
    start: str = ""
    """File of initial weights. Empty: theta_0."""
    fresh: int = 0
    """Control: draw a new theta_0, to which phi does not belong, from this seed; 0 = the student's
    theta_0."""
    scale: Literal["frame", "set"] = "frame"
    """The unit of the student's joints. frame: the annotated bone of each frame, as in the
    protocol. set: the mean bone of the training frames, for a target of one person, because
    annotated bones vary between frames (by 9 % on the real hands); the bones of the test frames
    are then not used."""
    test_time_rotations_deg: tuple[float, ...] = (0.0,)
    """Each test prediction is the mean over pictures rotated by these angles, in degrees; the paper
    uses (0,)."""
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
        InputError: the file is not a prior of this network, or a setting would have no effect.
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
    if centre:  # around given weights, a negative phi would push away from them without bound
        prior = prior.floored(0.0).centred(centre)
    return prior.with_rms(settings.sigma, settings.per_layer) if settings.sigma else prior


def load_centre(config: Target, packed: Packed) -> dict[str, nn.Parameter] | None:
    """The weights theta* that R is centered on; None is zero."""
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
    """The loader of the samples added to each batch: labeled ones, or all with a teacher's answers.

    Raises:
        InputError: there are too few samples, or the answers belong to another set.
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
    """The batch with the teacher's answers, where there are any, in place of labels."""
    if batch.answers is None:
        return batch
    joints, uv, _ = batch.answers
    return replace(batch, joints=joints, uv=batch.uv if uv is None else uv, answers=None)


def to_unit_(model: PoseNet, unit_mm: float, mean_bone_mm: float) -> None:
    """Sets the unit of a student's joints; 0 means each hand's own bone.

    The unit, like the convention, is a factor of the last step: no weight changes.
    """
    earlier = float(model.unit_mm)
    if earlier:
        model.convention.mul_(earlier / mean_bone_mm)
    model.unit_mm.fill_(unit_mm)


def in_set_scale(batch: HandBatch, bone_mm: float) -> HandBatch:
    """The batch with its joints in units of the set's mean bone."""
    return replace(batch, joints=batch.joints * (batch.scale_mm / bone_mm)[:, None, None])


def weight_histogram(model: nn.Module) -> dict[str, Any]:
    """Histogram of all convolution and linear weights (Fig. 5); outer bins include all beyond."""
    tensors = [t.detach().flatten().cpu() for t in model.parameters() if t.dim() >= 2]
    weights = torch.cat(tensors).numpy()
    return {
        "edges": HISTOGRAM_EDGES.round(4).tolist(),
        "counts": np.histogram(weights.clip(-1, 1), HISTOGRAM_EDGES)[0].tolist(),
        "near_zero": float((np.abs(weights) < 1e-3).mean()),
        "rms": float(np.sqrt((weights**2).mean())),
    }


SETTINGS = Target
