"""`cmkg target`: the student on a target without depth, on F = L_REG + R(theta; phi).

Eq. 9, Algorithm 2.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...evidence import Evidence
from ...low_rank import LowRankPrior
from ...prior import Prior, fingerprint
from ...runtime.checks import expect_at_least_one, expect_between, expect_from_zero
from ...runtime.distributed import Processes, launch, place_model
from ...runtime.random import generator
from ...runtime.runs import Losses, Run
from ...runtime.weight_files import save_weights
from ...steps import take_step
from ..datasets.packed import Packed
from ..network.augment import Augmentation
from ..network.heatmaps import heatmap_loss
from ..network.pose import HandBatch, Pose
from ..network.pose_loss import PoseLoss, loss_of
from ..network.posenet import NetConfig, PoseNet, pose_net
from ..skeleton import bone_scale
from .fitting import (
    Frames,
    Loader,
    convention_matrix,
    fit,
    frame_range,
    labelled_numbers,
    read_answers,
)
from .inputs import checksums_of
from .networks import load_start
from .predicting import predict, save_predictions, score
from .settings import Flat, OptimConfig, SourceData
from .student_card import finish_student

HISTOGRAM_EDGES = np.linspace(-1, 1, 201)


@dataclass(frozen=True)
class TargetData:
    """The packed sets of a target."""

    data: str = "data/target"
    test: str = "data/target-test"
    frames: Frames | None = None
    """Train on these frames [first, last) of `data`; None = all."""
    validation: Frames | None = None
    """Score on these frames of `data` instead of `test`."""
    alongside: str = ""
    """A packed set: each batch is joined by as many of its samples, their labels in the target's
    bone convention."""
    alongside_labels: int = 0
    """So many of them have labels, drawn by --label-seed as in the source's stages; 0 = all."""
    label_seed: int = 0
    alongside_answers: str = ""
    """answers.npz of a distilled student's folder (--cached there): what the teacher said of all
    of them takes their labels' place."""

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
    low_rank: str = ""
    """A low-rank prior's file (cmkg.LowRankPrior), around the mean of its own trajectory; sigma is
    its strength."""
    evidence: Literal["", "bound", "emphasised"] = ""
    """How strongly all weights are held around the centre follows from the evidence's lower bound
    (cmkg.Evidence), by itself or with the data emphasised; there is no sigma."""
    sigma: float = 0.0
    """With a prior: phi is scaled to this root mean square (its strength), 0 = as it was learned.
    Without: the constant, 0 = none."""
    per_layer: bool = False
    """A prior's strength is that of each layer, not of the whole: one layer has nearly all else."""
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
        if self.low_rank and (self.prior or self.centre):
            raise InputError("--low-rank: it has its own centre; give neither --prior nor --centre")
        if self.evidence and (self.prior or self.low_rank or self.sigma or self.function_weight):
            raise InputError(
                "--evidence: it finds the strength itself; give neither --sigma nor another prior"
            )
        if (self.low_rank or self.evidence) and (
            self.permuted or self.layer_mean or self.exponent != 2 or not self.coupled
        ):
            raise InputError(
                "--low-rank, --evidence: --permuted, --layer-mean, --exponent and --no-coupled do "
                "not act on them; leave them out"
            )


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
    regulariser: Annotated[Regulariser, Flat] = field(default_factory=Regulariser)
    optim: Annotated[OptimConfig, Flat] = field(default_factory=OptimConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        expect_at_least_one(self, "test_time_rotations_deg")


def load_regulariser(config: Target, model: nn.Module, packed: Packed) -> Prior | None:
    """The prior of this row, or None.

    Raises:
        InputError: its file is not a prior of this network.
    """
    settings = config.regulariser
    if settings.per_layer and not (settings.prior and settings.sigma):
        raise InputError("--per-layer: it is of a prior's strength; give --prior and --sigma")
    if settings.low_rank and not settings.sigma:
        raise InputError("--low-rank: give --sigma, its strength")
    is_held = settings.sigma or settings.prior or settings.low_rank or settings.evidence
    if settings.centre and not is_held:
        raise InputError(
            "--centre: nothing holds the weights there; give --sigma, its strength, or --prior"
        )
    if settings.low_rank or (settings.sigma == 0 and not settings.prior):
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
    around, _ = load_start(config.regulariser.centre, config.student, config.source, packed)
    return dict(around.named_parameters())


def load_evidence(config: Target, model: nn.Module, packed: Packed, count: int) -> Evidence | None:
    """What finds the strength by itself, on `count` training frames; None without --evidence."""
    kind = config.regulariser.evidence
    if not kind:
        return None
    return Evidence(
        model,
        load_centre(config, packed),
        samples=count,
        numbers=int(packed.joints_mm[0].size),
        emphasised=kind == "emphasised",
        select=config.regulariser.parameters,
    )


def mean_bone_mm(packed: Packed, frames: Frames | None) -> float:
    """The mean bone of the frames that are trained on."""
    first, last = frame_range(packed, frames)
    return float(bone_scale(np.array(packed.joints_mm[first:last])).mean())


def run(config: Target) -> dict[str, Any]:
    """Trains, tests, and writes target.safetensors, predictions and the result."""
    data, regulariser = config.target, config.regulariser
    inputs = checksums_of(
        data=data.data,
        test="" if data.validation else data.test,
        alongside=data.alongside,
        alongside_answers=data.alongside_answers,
        student=config.student,
        source=config.source,
        start=config.start,
        prior=regulariser.prior,
        low_rank=regulariser.low_rank,
        centre=regulariser.centre,
    )
    run = Run(config.out, config, "target student", inputs=inputs)
    if run.result:
        return run.result
    fabric = launch(config.optim.precision)
    packed = Packed(data.data)
    scored = packed if data.validation else Packed(data.test)
    start, net = load_start(config.start, config.student, config.source, packed)
    if config.fresh:
        start = pose_net(net, seed=config.fresh)
    bone_mm = mean_bone_mm(packed, data.frames)
    to_unit_(start, bone_mm if config.scale == "set" else 0.0, bone_mm)
    prior = load_regulariser(config, start, packed)
    loader = Loader(
        packed,
        net.px,
        fabric.device,
        augmentation=config.augmentation,
        frames=data.frames,
        upright=net.upright,
    )
    test = Loader(scored, net.px, fabric.device, frames=data.validation, upright=net.upright)
    frame_range(scored, data.validation)
    alongside = alongside_loader(config, net, fabric) if data.alongside else None
    loss = loss_of(net, packed.bone_mm)

    began = fingerprint(start)
    prior = prior.to(fabric.device) if prior else None
    function_weight = config.regulariser.function_weight
    before = copy.deepcopy(start).to(fabric.device).eval() if function_weight else None
    low_rank = config.regulariser.low_rank
    held = LowRankPrior.load(low_rank, config.regulariser.sigma) if low_rank else None
    held = held.to(fabric.device) if held else None
    model = place_model(start, fabric)
    weights = dict(start.named_parameters())
    evidence = load_evidence(config, model, packed, len(loader))
    own = [] if evidence is None else list(evidence.parameters())
    optimizer = torch.optim.Adam([*model.parameters(), *own], config.optim.lr)

    def join_alongside(batch: HandBatch, step: int) -> HandBatch:
        assert alongside is not None
        assert isinstance(alongside.packed, Packed)
        seed, count = config.optim.seed, len(batch)
        more = alongside.training_batch(seed, step, count, fabric, stream="source")
        if more.answers is not None:
            joints, uv, _ = more.answers
            more = replace(more, joints=joints, uv=more.uv if uv is None else uv, answers=None)
        return batch.join(more.to_convention(convention_matrix(alongside.packed, packed)))

    def update(batch: HandBatch, step: int) -> Losses:
        if config.scale == "set":
            batch = in_set_scale(batch, bone_mm)
        if alongside is not None:
            batch = join_alongside(batch, step)

        def losses_of() -> dict[str, Tensor]:
            if evidence is not None:
                place, seed = fabric.global_rank, config.optim.seed
                draws = generator("evidence", seed, step, place, device=fabric.device)
                said = evidence(batch.picture("rgb"), generator=draws)
                return evidence_losses(evidence, loss, said, batch.labels)
            answer = model(batch.picture("rgb"))
            losses = {"regression": loss(answer, batch.labels)}
            if held is not None:
                losses["regulariser"] = held(weights)
            if before is not None:
                with torch.no_grad():
                    said = before(batch.picture("rgb"))
                losses["function"] = function_weight * loss(answer, Pose(said.joints, said.uv))
            return losses

        return take_step(model, optimizer, losses_of, fabric.autocast)

    with run.claim():
        state: dict[str, Any] = {"model": model, "optimizer": optimizer}
        if evidence is not None:
            state["evidence"] = evidence
        pull: AbstractContextManager[Any] = nullcontext()
        if prior is not None:
            pull = prior.attach(optimizer, model, config.regulariser.coupled)
        with pull:
            fit(run, config.optim, loader, state, fabric, update)
        save_weights(run.path("target.safetensors"), model, theta_start=began)
        predictions = predict(model, test, fabric, config.test_time_rotations_deg)
        save_predictions(run.path("predictions.npz"), predictions)
        result = score(predictions) | {"weights": weight_histogram(model)}
        if evidence is not None:
            result["evidence"] = describe_evidence(evidence)
        return finish_student(run, result, "A hand student, trained on the target")


def alongside_loader(config: Target, net: NetConfig, fabric: Processes) -> Loader:
    """What joins each batch: its labelled samples, or all with a teacher's answers.

    Raises:
        InputError: there are not so many samples; answers of another set.
    """
    data = config.target
    alongside = Packed(data.alongside)
    labelled = SourceData(labels=data.alongside_labels, label_seed=data.label_seed)
    loader = Loader(
        alongside,
        net.px,
        fabric.device,
        augmentation=config.augmentation,
        upright=net.upright,
    )
    if not data.alongside_answers:
        return replace(loader, labelled=labelled_numbers(labelled, alongside))
    return replace(loader, answers=read_answers(data.alongside_answers, len(alongside)))


def to_unit_(model: PoseNet, unit_mm: float, mean_bone_mm: float) -> None:
    """A student from now on in this unit, 0 being each hand's own bone, that bone long in the mean.

    The unit is a factor of its last step, as the convention is: no weight moves.
    """
    held = float(model.unit_mm)
    if held:
        model.convention.mul_(held / mean_bone_mm)
    model.unit_mm.fill_(unit_mm)


def in_set_scale(batch: HandBatch, bone_mm: float) -> HandBatch:
    """The batch with its joints in units of the set's mean bone."""
    return replace(batch, joints=batch.joints * (batch.scale_mm / bone_mm)[:, None, None])


def evidence_losses(
    evidence: Evidence, loss: PoseLoss, said: Pose, labels: Pose
) -> dict[str, Tensor]:
    """The bound a sample: joints with Gaussian errors, and heatmaps as 21 draws of a cell each."""
    losses = evidence.losses(replace(loss, heatmap_weight=0.0)(said, labels))
    if said.heatmaps is not None and labels.uv is not None:
        joints = said.heatmaps.shape[1]
        nats = joints * heatmap_loss(said.heatmaps, labels.uv)
        losses["heatmaps"] = nats
    return losses


@torch.no_grad()
def describe_evidence(evidence: Evidence) -> dict[str, float]:
    """Standard deviations that were found: of the weights, and of the prior around its centre."""
    spread, prior = float(evidence.log_spread.exp()), float(evidence.variance().sqrt())
    return {"spread": spread, "prior_spread": prior}


def weight_histogram(model: nn.Module) -> dict[str, Any]:
    """Counts of all convolution and linear weights (Fig. 5); those beyond are in the last bins."""
    tensors = [t.detach().flatten().cpu() for t in model.parameters() if t.dim() >= 2]
    weights = torch.cat(tensors).numpy()
    return {
        "edges": HISTOGRAM_EDGES.round(4).tolist(),
        "counts": np.histogram(weights.clip(-1, 1), HISTOGRAM_EDGES)[0].tolist(),
        "near_zero": float((np.abs(weights) < 1e-3).mean()),
        "rms": float(np.sqrt((weights**2).mean())),
    }
