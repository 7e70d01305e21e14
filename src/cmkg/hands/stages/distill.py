"""`cmkg distill`: the second half of the student's training, on G = L_REG + L_DIST (Eqs. 4 and 8).

Meanwhile the prior phi is meta-learned (Algorithm 3). theta's path does not depend on phi, so p = 1
and p = 2 are learned side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ...batch import Batch
from ...cards import ABOUT_PRIOR, prior_facts, write_card
from ...criteria import FeatureLoss
from ...distiller import Distiller
from ...errors import InputError
from ...learner import MetaConfig, PriorLearner
from ...losses import distillation_loss
from ...modules import unwrap
from ...prior import Prior
from ...runtime.checks import expect_between, expect_from_zero, expect_positive
from ...runtime.distributed import Processes, launch, on_first_rank, place_model, wait_for_all
from ...runtime.files import write_arrays, write_sealed_json
from ...runtime.progress import note
from ...runtime.run_files import read_own_settings
from ...runtime.runs import Losses, Run
from ...runtime.weight_files import load_weights, save_weights
from ...steps import take_step
from ..datasets.packed import Packed, open_training_set
from ..network.augment import Augmentation
from ..network.pose import HandBatch, Pose
from ..network.pose_loss import PoseLoss, TeachersPose, describe_unit, loss_of, output_pairs
from ..network.posenet import NetConfig, PoseNet
from .fitting import (
    Loader,
    fit,
    labelled_numbers,
    load_optimizer,
    read_answers,
    second_half,
    steps_of,
)
from .inputs import checksums_of
from .networks import (
    CHANNELS,
    ROLES,
    THETA_0,
    Modality,
    expect_own_unit,
    load_network,
    read_net_config,
)
from .predicting import TEST_BATCH, predict, save_predictions, score
from .settings import Flat, OptimConfig, SourceData, expect_share
from .student_card import finish_student


@dataclass(frozen=True)
class PhiConfig:
    """How phi is learned."""

    exponents: tuple[Literal[1, 2], ...] = (1, 2)
    """p of the priors to learn; empty = distillation alone."""
    alpha: float = 5e-5
    """Rate of the inner step. The paper's 2.5e-4 is in its own unit; here it nears divergence. With
    the inner optimiser adam: in parts of Adam's own rate."""
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd: the paper's. adam: the inner step is alpha of the step that Adam takes, weight by
    weight."""
    beta: float = 1e-3
    """phi's step."""
    phi_parameters: Literal["weights", "all"] = "weights"
    """Which parameters carry phi."""
    split: bool = False
    """The first half of each batch is the inner step's, the second G's; else both see the same
    batch, as in the paper."""
    inner_steps: int = 1
    """l of Algorithm 1."""
    exact: bool = False
    """phi's gradient by unrolling the inner steps, with second-order graphs: exact over l = 1,
    where the terms of the steps are summed otherwise. On one process."""

    def __post_init__(self) -> None:
        expect_positive(self, "inner_steps")
        expect_between(self, 1e-30, 1e6, "alpha", "beta")


@dataclass(frozen=True)
class Criterion:
    """What the student is to have of the teacher."""

    criterion: Literal["paper", "outputs", "features", "both"] = "paper"
    """paper: L_DIST of Eq. 4. outputs: the teacher's joints, and its heatmaps' centres, as labels.
    features: projected and standardised feature maps (cmkg.FeatureLoss). both: the last two."""
    attention_weight: float = 1e3
    """lambda of Eq. 4, for `paper`; 0 leaves L_ACT alone."""
    output_weight: float = 1.0
    """Of `outputs` beside L_REG."""
    feature_weight: float = 1.0
    """Of `features` beside L_REG."""
    fading: bool = False
    """The teacher's weight falls from 1 at the first step towards 0 at the last."""

    def __post_init__(self) -> None:
        expect_from_zero(self, "attention_weight", "output_weight", "feature_weight")


@dataclass(frozen=True)
class Distill:
    """Settings of distilling a teacher into a student."""

    student: str = "runs/student"
    """Folder of a finished student run."""
    start: str = "student"
    """Its weights to start from: student, the trained ones; theta_0, so that phi sees the whole way
    (it takes as many epochs more); or a file of others of this network, to go on from."""
    teacher: str = "runs/teacher"
    """Folder of a finished teacher run; of a student run for the control that the teacher, too,
    sees RGB."""
    out: str = "runs/distill"
    criterion: Annotated[Criterion, Flat] = field(default_factory=Criterion)
    unlabelled: float = 0.0
    """Share of each batch that is drawn from the pairs without labels (--labels): they learn from
    the teacher alone."""
    cached: bool = False
    """The teacher is asked once, about the pictures as they are stored; its answers are kept in
    answers.npz and turned with each picture: no teacher runs while the student learns. For the
    criterion outputs."""
    use_teacher: bool = True
    """False is a control: G = L_REG, for theta and for phi alike."""
    shuffled: bool = False
    """A control: the teacher sees another sample of the batch than the student."""
    snapshots: int = 0
    """So many copies of the weights, evenly over the training, in the folder `trajectory`: what a
    low-rank prior is made of (cmkg.LowRankPrior)."""
    optimizer_state: str = ""
    """Adam's state to go on with: optimizer.pt of the student's run (--keep-optimizer there); empty
    = begun anew."""
    source: Annotated[SourceData, Flat] = field(default_factory=SourceData)
    phi: Annotated[PhiConfig, Flat] = field(default_factory=PhiConfig)
    optim: Annotated[OptimConfig, Flat] = field(default_factory=OptimConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        expect_positive(self.optim, "epochs")
        expect_from_zero(self, "snapshots")
        expect_share(self.unlabelled)
        if self.unlabelled and self.phi.split:
            raise InputError(
                "--split beside --unlabelled: the second half of a batch would have no label"
            )
        if self.shuffled and not self.use_teacher:
            raise InputError("--shuffled beside --no-use-teacher: there is no teacher to mislead")
        if not self.cached:
            return
        if self.criterion.criterion != "outputs" or not self.use_teacher:
            raise InputError("--cached: it keeps a teacher's answers; give --criterion outputs")
        if self.source.extra or self.phi.split or self.phi.inner_steps > 1:
            raise InputError("--cached: not beside --extra, --split or --inner-steps")


def learner_of(
    config: Distill, distiller: Distiller, theta_0: nn.Module, loss_unit: str
) -> PriorLearner:
    """What learns phi for each exponent, from 0; the priors' manifest says how."""
    phi = config.phi
    how = MetaConfig(
        exponents=phi.exponents,
        alpha=phi.alpha,
        beta=phi.beta,
        split=phi.split,
        inner_steps=phi.inner_steps,
        inner_optimizer=phi.inner_optimizer,
        select=phi.phi_parameters,
        exact=phi.exact,
    )
    facts: dict[str, Any] = {
        "loss_units": loss_unit,
        "source": Path(config.source.data).name,
    }
    if config.use_teacher:
        facts |= {"teacher": Path(config.teacher).name, "criterion": config.criterion.criterion}
    if config.use_teacher and config.criterion.criterion == "paper":
        facts["attention_weight"] = config.criterion.attention_weight
    return PriorLearner(distiller, how, theta_0=theta_0, facts=facts)


def expect_unlabelled(config: Distill, packed: Packed) -> None:
    """Refuses --unlabelled where every sample has a label; says where the others are left out.

    Raises:
        InputError: there is nothing without a label.
    """
    without = int((~packed.labels()).sum())
    if config.unlabelled and not config.source.labels and not without:
        raise InputError("--unlabelled: every sample has a label; give --labels, how many have")
    if without and not config.unlabelled:
        note(
            f"{packed.folder}: {without} samples without a label are left out; --unlabelled 0.75 "
            "distils from them, too"
        )


def run(config: Distill) -> dict[str, Any]:
    """Distils, tests, and writes distilled.safetensors, the priors and the result."""
    source, own_start = config.source, config.start in (THETA_0, "student")
    inputs = checksums_of(
        data=source.data,
        extra=source.extra,
        test=source.test,
        student=config.student,
        teacher=config.teacher,
        start="" if own_start else config.start,
        optimizer_state=config.optimizer_state,
    )
    run = Run(config.out, config, "distilled student", inputs=inputs)
    if run.result:
        return run.result
    fabric = launch(config.optim.precision)
    start, net = load_network(config.student, "rgb", config.start if own_start else "student")
    if not own_start:
        load_weights(config.start, start)
        expect_own_unit(start, config.start)
    theta_0, _ = load_network(config.student, "rgb", THETA_0)
    modality = modality_of(config.teacher)
    if read_net_config(config.teacher).upright != net.upright:
        raise InputError("one of teacher and student sees hands --upright, the other does not")
    if net.upright and config.cached:
        raise InputError("--cached: not for networks that see hands --upright")
    teacher, _ = load_network(config.teacher, modality, ROLES[modality])
    packed = open_training_set(config.source.data, config.source.extra)
    loader = Loader(
        packed,
        net.px,
        fabric.device,
        ("rgb",) if config.cached else tuple(dict.fromkeys(("rgb", modality))),
        config.augmentation,
        labelled=labelled_numbers(config.source, packed),
        unlabelled=config.unlabelled if config.use_teacher else 0.0,
        upright=net.upright,
    )
    test = Loader(Packed(config.source.test), net.px, fabric.device, upright=net.upright)
    own = packed if isinstance(packed, Packed) else packed.first
    expect_unlabelled(config, own)
    loss = loss_of(net, own.bone_mm)

    teacher.to(fabric.device).requires_grad_(False)
    student = place_model(start, fabric)
    if config.use_teacher:
        distiller = distiller_of(config.criterion, student, teacher, net, loss, config.optim.seed)
    else:
        distiller = Distiller(student, None, loss=loss)
    learner = None
    if config.phi.exponents:
        learner = learner_of(config, distiller, theta_0, describe_unit(net))
    optimizer = torch.optim.Adam(distiller.parameters(), config.optim.lr)
    if config.optimizer_state:
        load_optimizer(config.optimizer_state, optimizer)

    total = steps_of(config.optim, loader)
    if config.snapshots > total:
        raise InputError(f"--snapshots {config.snapshots}: there are {total} steps; give fewer")

    def update(hands: HandBatch, step: int) -> Losses:
        if config.criterion.fading:
            distiller.teacher_weight = 1 - step / total
        seen = None if config.cached else hands.picture(modality)
        said = [one for one in hands.answers or () if one is not None]
        if config.shuffled:
            seen, said = None if seen is None else seen.roll(1, 0), [one.roll(1, 0) for one in said]
        batch = Batch(hands.picture("rgb"), seen, hands.labels, hands.labelled)
        learn = None if learner is None else partial(learner.backward, batch, optimizer=optimizer)
        losses_of = partial(distiller, batch, said or None)
        losses = take_step(student, optimizer, losses_of, fabric.autocast, learn)
        if config.snapshots and (step + 1) * config.snapshots % total < config.snapshots:
            save_weights(run.path(f"trajectory/{step + 1:07d}.safetensors"), student)
        return losses

    state: dict[str, Any] = {"model": distiller, "optimizer": optimizer}
    if learner is not None:
        state["learner"] = learner
    with run.claim():
        if config.cached:
            asked = Loader(packed, net.px, fabric.device, (modality,))
            kept = kept_answers(run.path("answers.npz"), teacher, asked, fabric)
            loader = replace(loader, answers=kept)
        if config.snapshots:
            on_first_rank(lambda: run.path("trajectory").mkdir(exist_ok=True))
        key = None
        if config.start != THETA_0:
            key = second_half(config.student, config.optim.seed)
        steps = fit(run, config.optim, loader, state, fabric, update, key)
        for prior in learner.priors if learner else ():
            save_prior(run, prior, steps)
        save_weights(run.path("distilled.safetensors"), student)
        predictions = predict(student, test, fabric)
        save_predictions(run.path("predictions.npz"), predictions)
        title = f"A hand student, distilled from {modality}"
        return finish_student(run, score(predictions), title)


@torch.no_grad()
def kept_answers(path: Path, teacher: PoseNet, loader: Loader, fabric: Processes) -> Pose:
    """What the teacher says of every sample of a set, read from the file where it was kept.

    Joints in bone units and, of heatmaps, their centres: see Pose.
    """
    is_kept = path.exists()
    wait_for_all()  # before one of them writes it
    if not is_kept:
        teacher.eval()
        found = []
        for at in range(0, len(loader), TEST_BATCH):
            picture = loader.fetch(range(at, min(at + TEST_BATCH, len(loader))))
            with fabric.autocast():
                pose = teacher(picture.picture(loader.modalities[0]))
            found.append(Pose(pose.joints.float(), pose.uv))
        arrays = {"joints": torch.cat([one.joints for one in found])}
        if found[0].uv is not None:
            arrays["uv"] = torch.cat([one.uv.float() for one in found if one.uv is not None])
        kept = {name: one.cpu().numpy() for name, one in arrays.items()}
        on_first_rank(lambda: write_arrays(path, **kept))
    return read_answers(path, len(loader))


def modality_of(folder: str) -> Modality:
    """What the network of a finished teacher or student run sees."""
    path = Path(folder) / "config.json"
    found: Any = read_own_settings(folder).get("modality")
    if found not in tuple(CHANNELS):
        raise InputError(
            f"{path}: expected a teacher's or a student's run, with 'modality' rgb or depth, found "
            f"{found!r}"
        )
    modality: Modality = found
    return modality


def distiller_of(
    criterion: Criterion,
    student: nn.Module,
    teacher: PoseNet,
    net: NetConfig,
    loss: PoseLoss,
    seed: int,
) -> Distiller:
    """The losses of the criterion that the settings name; seed: of what it learns itself."""
    layers = [(name, name) for name in teacher.feature_layers]
    if criterion.criterion == "paper":
        paper = partial(distillation_loss, attention_weight=criterion.attention_weight)
        return Distiller(student, teacher, pairs=layers, loss=loss, criterion=paper)
    outputs, answers = output_pairs(net), TeachersPose(loss, criterion.output_weight)
    if criterion.criterion == "outputs":
        return Distiller(student, teacher, pairs=outputs, loss=loss, criterion=answers)
    inner = unwrap(student)
    assert isinstance(inner, PoseNet)
    own, other = (
        [tuple(features.shape[1:]) for features in one.feature_maps(net.px)]
        for one in (inner, teacher)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = FeatureLoss(own, other, criterion.feature_weight)
    features.to(next(teacher.parameters()).device)
    if criterion.criterion == "features":
        return Distiller(student, teacher, pairs=layers, loss=loss, criterion=features)
    both = Both(features, answers, len(layers))
    return Distiller(student, teacher, pairs=[*layers, *outputs], loss=loss, criterion=both)


class Both(nn.Module):
    """Two criteria: the first on the first `count` pairs, the second on the others."""

    def __init__(self, first: nn.Module, second: nn.Module, count: int) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.count = count

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> dict[str, Tensor]:
        """The terms of both."""
        own = self.first(student[: self.count], teacher[: self.count])
        return {**own, **self.second(student[self.count :], teacher[self.count :])}


def save_prior(run: Run, prior: Prior, steps: int) -> None:
    """Writes a learned prior, its quantiles and its card."""
    name = f"prior_p{prior.p}"
    prior.save(run.path(f"{name}.safetensors"), {"iterations": steps})
    write_sealed_json(run.path(f"{name}.json"), prior.quantiles())
    title = f"A prior, p = {prior.p}"
    write_card(run.path(f"{name}.md"), title, prior_facts(prior), ABOUT_PRIOR)
