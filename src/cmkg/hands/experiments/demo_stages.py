"""The stages and rows of `cmkg run demo` and `cmkg run real`, and an estimate of their work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...prior.learner import MetaConfig
from ..commands import distill, student, target
from ..commands.any_stage import SourceStage
from ..commands.target import Alongside, Regulariser
from ..datasets.packed.format import Packed
from ..stages.stage_settings import OptimConfig, SourceData
from .demo_settings import SOURCE_AUGMENTATION, Experiment
from .rows import Row


def source_stages(
    config: Experiment, out: Path, data: Path | None = None
) -> dict[str, SourceStage]:
    """Settings of the source's stages; all take the same number of steps and see the same labels.

    data: the folder of the packed sets; None means `data` in out.

    `rgb` and `shuffled` are the controls of `depth`. `no-teacher` is the control of the prior,
    learned on the labels alone. `wide` continues from `all` on other hands, for the recipe.
    """
    sets = data or out / "data"
    scarce = SourceData(
        str(sets / "source"),
        test=str(sets / "source-test"),
        labels=min(config.labels, config.source_count),
        label_seed=config.seeds[0],
    )
    expert = config.expert
    optim = OptimConfig(
        expert.source_epochs,
        expert.batch,
        expert.lr,
        "cosine",
        config.seeds[0],
        expert.precision,
    )
    student_stage = student.Source(
        out=str(out / "student"),
        source=scarce,
        net=config.net,
        optim=optim,
        augmentation=SOURCE_AUGMENTATION,
    )
    taught = distill.Distill(
        student=str(out / "student"),
        start="theta_0",
        teacher=str(out / "teacher"),
        out=str(out / "depth"),
        criterion=distill.CriterionConfig("outputs", output_weight=expert.output_weight),
        unlabelled=expert.unlabelled,
        cached=True,
        source=scarce,
        phi=MetaConfig(exponents=()),
        optim=optim,
        augmentation=SOURCE_AUGMENTATION,
    )
    phi = MetaConfig(exponents=())
    if config.with_prior:
        phi = MetaConfig(exponents=(2,), inner_optimizer="adam", alpha=1e-3)
    all_labels = replace(scarce, labels=0)
    stages: dict[str, SourceStage] = {
        "teacher": replace(student_stage, modality="depth", out=str(out / "teacher")),
        "student": student_stage,
        "depth": replace(taught, phi=phi),
        "rgb": replace(taught, teacher=str(out / "student"), out=str(out / "rgb")),
        "shuffled": replace(taught, shuffled=True, out=str(out / "shuffled")),
        "all": replace(student_stage, source=all_labels, out=str(out / "all")),
    }
    if config.with_prior:
        stages["no-teacher"] = replace(
            taught, use_teacher=False, cached=False, out=str(out / "no-teacher"), phi=phi
        )
    if config.wide_count:
        stages["wide"] = replace(
            student_stage,
            source=replace(all_labels, data=str(sets / "wide")),
            start=str(out / "all/student.safetensors"),
            optim=replace(optim, epochs=expert.wide_epochs, lr=expert.long_lr),
            out=str(out / "wide"),
        )
    return stages


UNTOUCHED = {
    "student": "student/student",
    "rgb": "rgb/distilled",
    "shuffled": "shuffled/distilled",
    "depth": "depth/distilled",
    "all": "all/student",
}


def target_rows(config: Experiment, out: Path) -> list[Row]:
    """The rows to train on the target."""

    def file(path: str) -> str:
        return str(out / f"{path}.safetensors")

    weights = {name: file(path) for name, path in UNTOUCHED.items()}
    source = str(out / "data/source")
    labels = Alongside(
        source,
        alongside_labels=min(config.labels, config.source_count),
        label_seed=config.seeds[0],
    )

    def tuned(name: str, label: str, alongside: Alongside) -> Row:
        """A row trained with the source alongside, as its student saw it, to reduce forgetting."""
        return Row(
            name=f"tuned-{name}",
            label=f"{label}, trained on",
            start=weights[name],
            alongside=alongside,
            stops=config.expert.stops,
        )

    def answers(name: str) -> Alongside:
        return Alongside(source, alongside_answers=str(out / name / "answers.npz"))

    rows = [
        tuned("student", "labels only", labels),
        tuned("depth", "taught by depth", answers("depth")),
    ]
    if not config.with_prior:
        return rows
    phi, without = file("depth/prior_p2"), file("no-teacher/prior_p2")
    around = "from random weights, weight decay towards those"
    return [
        *rows,
        tuned("rgb", "control: taught by RGB", answers("rgb")),
        tuned("all", "all labels", Alongside(source)),
        recipe_row(config, out),
        Row(name="none", label="from random weights"),
        Row(name="l2", label="from random weights, weight decay", tuned=True),
        Row(
            name="prior",
            label="from random weights, the learned prior",
            regulariser=Regulariser(prior=phi, per_layer=True),
            tuned=True,
        ),
        Row(
            name="prior-permuted",
            label="the prior, shuffled within layers",
            regulariser=Regulariser(prior=phi, per_layer=True, permuted=True),
            tuned=True,
            is_control=True,
        ),
        Row(
            name="prior-no-teacher",
            label="the prior, learned without the teacher",
            regulariser=Regulariser(prior=without, per_layer=True),
            tuned=True,
            is_control=True,
        ),
        Row(
            name="centred",
            label=f"{around} taught by depth",
            regulariser=Regulariser(centre=weights["depth"]),
            tuned=True,
        ),
        Row(
            name="centred-labels",
            label=f"{around} of labels only",
            regulariser=Regulariser(centre=weights["student"]),
            tuned=True,
            is_control=True,
        ),
    ]


def recipe_row(config: Experiment, out: Path) -> Row:
    """The row that was chosen on held-out training frames, see docs/study.md."""
    start, hands = ("wide", "wide") if config.wide_count else ("all", "source")
    return Row(
        name="recipe",
        label="all labels, the recipe",
        start=str(out / start / "student.safetensors"),
        scale="set",
        alongside=Alongside(str(out / "data" / hands)),
        epochs=config.expert.long_epochs,
        lr=config.expert.long_lr,
    )


def target_settings(config: Experiment) -> target.Target:
    """The settings that all rows share."""
    return target.Target(
        test_time_rotations_deg=config.expert.test_time_rotations_deg,
        augmentation=config.augmentation,
        optim=OptimConfig(
            config.expert.target_epochs,
            config.expert.batch,
            config.expert.target_lr,
            "cosine",
            config.seeds[0],
            config.expert.precision,
        ),
    )


def rate_of(config: Experiment, row: Row) -> float:
    """The learning rate of a row; rows that start at trained weights have their own."""
    return config.expert.fine_tune_lr if row.start else config.expert.target_lr


def work_of(
    config: Experiment, out: Path, stages: dict[str, SourceStage], rows: list[Row]
) -> dict[str, float]:
    """{stage or row: number of images in its training}, for those that are not finished."""
    work = work_of_stages(stages)
    count = len(Packed(out / "data/target"))
    for row in rows:
        done = len(list((out / "target" / row.name).rglob("seed-*/result.json")))
        trainings = len(config.seeds) - done + (len(config.expert.tries) if row.tuned else 0)
        longest = max(row.stops) if row.stops else config.expert.target_epochs
        images = (longest if row.epochs is None else row.epochs) * count
        trainings += 1 if row.stops else 0
        if done < len(config.seeds):
            work[row.name] = trainings * images * (2 if row.alongside.alongside else 1)
    return work


def work_of_stages(stages: dict[str, SourceStage]) -> dict[str, float]:
    """{stage: number of images in its training}, for those that are not finished."""
    return {
        name: stage.optim.epochs * len(Packed(stage.source.data))
        for name, stage in stages.items()
        if not (Path(stage.out) / "result.json").exists()
    }
