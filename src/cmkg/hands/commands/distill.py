"""`cmkg distill`: the second half of the student's training, on G = L_REG + L_DIST (Eqs. 4 and 8).

The prior phi is meta-learned at the same time (Algorithm 3). The path of theta does not depend on
phi, so phi for p = 1 and p = 2 is learned in one run.
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
from ...distillation.criteria import FeatureLoss
from ...distillation.distiller import Distiller
from ...distillation.losses import distillation_loss
from ...errors import InputError
from ...modules import unwrap
from ...prior.card import ABOUT_PRIOR, prior_facts
from ...prior.learner import MetaConfig, PriorLearner
from ...prior.prior import Prior
from ...runtime.cards import write_card
from ...runtime.checks import expect_from_zero, expect_positive
from ...runtime.distributed import Processes, on_first_rank, place_model, wait_for_all
from ...runtime.files import write_arrays, write_sealed_json
from ...runtime.progress import note
from ...runtime.run import Losses
from ...runtime.weight_files import load_weights
from ...training.step import take_step
from ..datasets.packed.format import Packed
from ..datasets.packed.labelled_set import open_frames
from ..network.augment import Augmentation
from ..network.loader import Loader, expect_unlabelled_share, read_answers
from ..network.pose import HandBatch, Pose
from ..network.pose_loss import PoseLoss, TeachersPose, describe_unit, loss_of, output_pairs
from ..network.posenet import NetConfig, PoseNet
from ..network.predictions import TEST_BATCH
from ..stages.finished_run import THETA_0, FinishedRun, expect_bone_unit
from ..stages.stage_run import StageRun, load_optimizer, second_half, steps_of
from ..stages.stage_settings import Flat, OptimConfig, SourceData

# The paper's alpha, 2.5e-4, refers to the paper's own unit; with this unit it almost diverges.
PHI = MetaConfig(exponents=(1, 2), alpha=5e-5)


@dataclass(frozen=True)
class CriterionConfig:
    """What the student learns from the teacher."""

    criterion: Literal["paper", "outputs", "features", "both"] = "paper"
    """paper: L_DIST of Eq. 4. outputs: the teacher's joints and heatmap centers serve as labels.
    features: projected and standardized feature maps (cmkg.FeatureLoss). both: outputs and
    features."""
    attention_weight: float = 1e3
    """lambda of Eq. 4, for the criterion paper; 0 leaves only L_ACT."""
    output_weight: float = 1.0
    """Weight of the outputs criterion relative to L_REG."""
    feature_weight: float = 1.0
    """Weight of the features criterion relative to L_REG."""
    fading: bool = False
    """Decrease the teacher's weight from 1 at the first step towards 0 at the last."""

    def __post_init__(self) -> None:
        expect_from_zero(self, "attention_weight", "output_weight", "feature_weight")


@dataclass(frozen=True)
class Distill:
    """Distill a teacher into a student, and meta-learn the prior."""

    student: str = "runs/student"
    """Folder of a finished student run."""
    start: str = "student"
    """The student's initial weights: student = its trained weights; theta_0 = its random weights,
    so that phi covers the whole training (requires correspondingly more epochs); or a file with
    other weights of this network."""
    teacher: str = "runs/teacher"
    """Folder of a finished teacher run; or of a student run, as a control with an RGB teacher."""
    out: str = "runs/distill"
    criterion: Annotated[CriterionConfig, Flat] = field(default_factory=CriterionConfig)
    unlabelled: float = 0.0
    """Share of each batch that is drawn from the pairs without labels (see --labels); the student
    learns from the teacher alone on these. With --no-use-teacher they are drawn and teach nothing:
    a control with as many labels in each batch."""
    cached: bool = False
    """Run the teacher only once, on the stored pictures, and keep its answers in answers.npz. They
    are augmented along with each picture, so no teacher runs during training. Only for the
    criterion outputs."""
    use_teacher: bool = True
    """False is a control without a teacher: G = L_REG, for theta and for phi."""
    shuffled: bool = False
    """Control: the teacher sees a different sample of the batch than the student."""
    optimizer_state: str = ""
    """Adam state to continue from: optimizer.pt of the student's run (written with
    --keep-optimizer). Empty: a new state."""
    source: Annotated[SourceData, Flat] = field(default_factory=SourceData)
    phi: Annotated[MetaConfig, Flat] = field(default_factory=lambda: PHI)
    optim: Annotated[OptimConfig, Flat] = field(default_factory=OptimConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        expect_positive(self.optim, "epochs")
        expect_unlabelled_share(self.unlabelled)
        if self.unlabelled and self.phi.split:
            raise InputError(
                "--split beside --unlabelled: the second half of a batch would have no label"
            )
        if self.optimizer_state and self.criterion.criterion in ("features", "both"):
            raise InputError(
                f"--optimizer-state beside --criterion {self.criterion.criterion}: the criterion "
                "has parameters of its own, which that state lacks; leave it out"
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
    """Learns phi for each exponent, starting at 0; the priors' manifest records the settings."""
    facts: dict[str, Any] = {
        "loss_units": loss_unit,
        "source": Path(config.source.data).name,
    }
    if config.use_teacher:
        facts |= {"teacher": Path(config.teacher).name, "criterion": config.criterion.criterion}
    if config.use_teacher and config.criterion.criterion == "paper":
        facts["attention_weight"] = config.criterion.attention_weight
    return PriorLearner(distiller, config.phi, theta_0=theta_0, facts=facts)


def expect_unlabelled(config: Distill, packed: Packed) -> None:
    """Refuses --unlabelled if every sample has a label; reports unlabeled samples that are unused.

    Raises:
        InputError: there are no samples without labels.
    """
    without = int((~packed.labels()).sum())
    if config.unlabelled and not config.source.labels and not without:
        raise InputError("--unlabelled: every sample has a label; give --labels, how many have")
    if without and not config.unlabelled:
        note(
            f"{packed.folder}: {without} samples without a label are left out; --unlabelled 0.75 "
            "distils from them, too"
        )


def load_start_of(config: Distill, student: FinishedRun) -> PoseNet:
    """The student with its initial weights.

    Raises:
        InputError: the weights were trained in a set's bone unit.
    """
    if config.start in (THETA_0, "student"):
        return student.load(config.start)
    model = student.load("student")
    load_weights(config.start, model)
    expect_bone_unit(model, config.start)
    return model


def expect_same_view(config: Distill, student: FinishedRun, teacher: FinishedRun) -> None:
    """Refuses a teacher and a student that do not both see hands with the same orientation.

    Raises:
        InputError: only one sees them --upright, or both do with --cached.
    """
    if teacher.net.upright != student.net.upright:
        raise InputError("one of teacher and student sees hands --upright, the other does not")
    if student.net.upright and config.cached:
        raise InputError("--cached: not for networks that see hands --upright")


def run(config: Distill) -> dict[str, Any]:
    """Distills, tests, and writes distilled.safetensors, the priors and the result."""
    source, starts_from_file = config.source, config.start not in (THETA_0, "student")
    student_run, teacher_run = (
        FinishedRun(Path(folder)) for folder in (config.student, config.teacher)
    )
    inputs: dict[str, str | FinishedRun] = {
        "data": source.data,
        "extra": source.extra,
        "test": source.test,
        "student": student_run,
        "teacher": teacher_run,
        "start": config.start if starts_from_file else "",
        "optimizer_state": config.optimizer_state,
    }
    stage = StageRun(config, "distilled student", inputs, config.optim.precision)
    if stage.result:
        return stage.result
    expect_same_view(config, student_run, teacher_run)
    start = load_start_of(config, student_run)
    net, modality = student_run.net, teacher_run.modality
    teacher = teacher_run.load(modality=modality)
    data = source.open()
    loader = Loader(
        data,
        net.px,
        stage.device,
        ("rgb",) if config.cached else tuple(dict.fromkeys(("rgb", modality))),
        config.augmentation,
        unlabelled=config.unlabelled if config.use_teacher else 0.0,
        upright=net.upright,
    )
    test_set = open_frames(Packed(source.test))
    test = Loader(test_set, net.px, stage.device, upright=net.upright)
    expect_unlabelled(config, data.first)
    loss = loss_of(net, data.first.bone_mm)

    teacher.to(stage.device).requires_grad_(requires_grad=False)
    student = place_model(start, stage.fabric)
    if config.use_teacher:
        distiller = distiller_of(config.criterion, student, teacher, net, loss, config.optim.seed)
    else:
        distiller = Distiller(student, None, loss=loss)
    learner = None
    if config.phi.exponents:
        theta_0 = student_run.load(THETA_0)
        learner = learner_of(config, distiller, theta_0, describe_unit(net))
    optimizer = torch.optim.Adam(distiller.parameters(), config.optim.lr)
    if config.optimizer_state:
        load_optimizer(config.optimizer_state, optimizer)
    total = steps_of(config.optim, loader)

    def update(hands: HandBatch, step: int) -> Losses:
        if config.criterion.fading:
            distiller.teacher_weight = 1 - step / total
        seen = None if config.cached else hands.picture(modality)
        answers = [answer for answer in hands.answers or () if answer is not None]
        if config.shuffled:
            seen = None if seen is None else seen.roll(1, 0)
            answers = [answer.roll(1, 0) for answer in answers]
        batch = Batch(hands.picture("rgb"), seen, hands.labels, hands.labelled)
        learn = None if learner is None else partial(learner.backward, batch, optimizer=optimizer)
        losses_of = partial(distiller, batch, answers or None)
        return take_step(student, optimizer, losses_of, stage.fabric.autocast, learn)

    state: dict[str, Any] = {"model": distiller, "optimizer": optimizer}
    if learner is not None:
        state["learner"] = learner
    key = None if config.start == THETA_0 else second_half(config.student, config.optim.seed)
    with stage.claim():
        if config.cached:
            pictures = Loader(data, net.px, stage.device, (modality,))
            answers = cached_answers(stage.path("answers.npz"), teacher, pictures, stage.fabric)
            loader = replace(loader, answers=answers)
        steps = stage.train(config.optim, loader, state, update, key)
        for prior in learner.priors if learner else ():
            save_prior(stage, prior, steps)
        stage.save("distilled", student)
        return stage.finish(stage.test(student, test), f"A hand student, distilled from {modality}")


@torch.no_grad()
def cached_answers(path: Path, teacher: PoseNet, loader: Loader, fabric: Processes) -> Pose:
    """The teacher's predictions for every sample of a set, read from the cache file if it exists.

    Joints are in bone units; networks with heatmaps also give the heatmap centers: see Pose.
    """
    is_kept = path.exists()
    wait_for_all()  # before one process writes the file
    if not is_kept:
        teacher.eval()
        poses = []
        for at in range(0, len(loader), TEST_BATCH):
            picture = loader.fetch(range(at, min(at + TEST_BATCH, len(loader))))
            with fabric.autocast():
                pose = teacher(picture.picture(loader.modalities[0]))
            poses.append(Pose(pose.joints.float(), pose.uv))
        arrays = {"joints": torch.cat([pose.joints for pose in poses])}
        if poses[0].uv is not None:
            arrays["uv"] = torch.cat([pose.uv.float() for pose in poses if pose.uv is not None])
        kept = {name: array.cpu().numpy() for name, array in arrays.items()}
        on_first_rank(lambda: write_arrays(path, **kept))
    return read_answers(path, len(loader))


def distiller_of(
    criterion: CriterionConfig,
    student: nn.Module,
    teacher: PoseNet,
    net: NetConfig,
    loss: PoseLoss,
    seed: int,
) -> Distiller:
    """The losses of the selected criterion; `seed` initializes the criterion's own parameters."""
    layers = [(name, name) for name in teacher.feature_layers]
    if criterion.criterion == "paper":
        paper = partial(distillation_loss, attention_weight=criterion.attention_weight)
        return Distiller(student, teacher, pairs=layers, loss=loss, criterion=paper)
    outputs, answers = output_pairs(net), TeachersPose(loss, criterion.output_weight)
    if criterion.criterion == "outputs":
        return Distiller(student, teacher, pairs=outputs, loss=loss, criterion=answers)
    inner = unwrap(student)
    assert isinstance(inner, PoseNet)
    student_shapes, teacher_shapes = (
        [tuple(features.shape[1:]) for features in network.feature_maps(net.px)]
        for network in (inner, teacher)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = FeatureLoss(student_shapes, teacher_shapes, criterion.feature_weight)
    features.to(next(teacher.parameters()).device)
    if criterion.criterion == "features":
        return Distiller(student, teacher, pairs=layers, loss=loss, criterion=features)
    both = Both(features, answers, len(layers))
    return Distiller(student, teacher, pairs=[*layers, *outputs], loss=loss, criterion=both)


class Both(nn.Module):
    """Two criteria: the first for the first `count` pairs, the second for the rest."""

    def __init__(self, first: nn.Module, second: nn.Module, count: int) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.count = count

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> dict[str, Tensor]:
        """The loss terms of both criteria."""
        terms = self.first(student[: self.count], teacher[: self.count])
        return {**terms, **self.second(student[self.count :], teacher[self.count :])}


def save_prior(stage: StageRun, prior: Prior, steps: int) -> None:
    """Writes a learned prior, its quantiles and its model card."""
    name = f"prior_p{prior.p}"
    prior.save(stage.path(f"{name}.safetensors"), {"iterations": steps})
    write_sealed_json(stage.path(f"{name}.json"), prior.quantiles())
    title = f"A prior, p = {prior.p}"
    write_card(stage.path(f"{name}.md"), title, prior_facts(prior), ABOUT_PRIOR)


SETTINGS = Distill
