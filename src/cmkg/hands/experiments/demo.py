"""`cmkg run demo` and `cmkg run real`: what depth is worth where few pairs have labels.

A source of RGB-D pairs of which few have labels: a teacher on their depth, students on the labels
alone, taught by the teacher on all pairs, taught by the controls, and on all labels. Then a target
without depth: the students untouched, and trained on; `real` does so on
anyone's recordings and learns the prior, too. One report.
Finished stages are reused, killed ones go on where they were.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from ...errors import InputError
from ...prior.learner import MetaConfig
from ...runtime.checks import (
    expect_at_least_one,
    expect_different_seeds,
    expect_from_zero,
    expect_positive,
)
from ...runtime.distributed import Precision, on_first_rank
from ...runtime.files import write_sealed_json
from ...runtime.progress import Overall, format_duration, say
from ...runtime.run import Run
from ...runtime.run_records import expect_shape, outputs_of, place_of, read_settings
from ..commands import distill, evaluate, render, student, target
from ..commands.any_stage import SourceStage, run_stage
from ..commands.target import Alongside, Regulariser
from ..datasets.folder import Folder
from ..datasets.folder_splits import FIT, TEST, TRAIN
from ..datasets.packed.format import Packed
from ..datasets.packed.pack import pack
from ..datasets.sample import pixels_to_store
from ..datasets.subset import Subset, expect_files
from ..network.augment import Augmentation
from ..network.loader import expect_share
from ..network.posenet import NetConfig
from ..network.predictions import score_mean_pose
from ..rendering.backgrounds import photographs
from ..rendering.scenes import SceneConfig
from ..report.run_page import SHOWN
from ..stages.stage_settings import Flat, OptimConfig, SourceData
from ..synthesis.rendered import Rendered
from .rows import Blocks, Folders, Row, select_rows, train_row, with_folders

# The source has thousands of poses and scenes: little augmentation. A target is small: more.
SOURCE_AUGMENTATION = Augmentation(
    turn_deg=20, shift=0.03, zoom=0.05, colour=0.15, noise=0, erase=0
)
TARGET_AUGMENTATION = Augmentation(
    turn_deg=90, shift=0.04, zoom=0.08, colour=0.25, noise=0.02, erase=0.2
)
MILD_AUGMENTATION = Augmentation(
    turn_deg=20, shift=0.04, zoom=0.08, colour=0.25, noise=0.02, erase=0.2
)
SLIM_NET = NetConfig(width=0.25, head="integral", stem_stride=2, heatmap_weight=1000.0, px=64)
SMALL_NET = NetConfig(
    backbone="resnet10", width=0.25, head="integral", stem_stride=2, heatmap_weight=1000.0, px=48
)
WIDER_NET = NetConfig(width=0.375, head="integral", stem_stride=2, heatmap_weight=1000.0, px=64)
FIRST_TEST_SCENE = 10_000_000
FIRST_LOOK, LOOKS, LOOK_PX = "first_look.png", 8, 240
SEQUENCES, TEST_SEQUENCES = 4, 2  # of a rendered target
TARGET_SEED, WIDE_SEED = 1, 2  # added to the source's seed


@dataclass(frozen=True)
class Expert:
    """How each part is trained."""

    batch: int = 32
    source_epochs: int = 8
    """Of each training on the source, in passes over all its pairs: all take as many steps."""
    target_epochs: int = 10
    """Of the rows that start at theta_0."""
    stops: tuple[int, ...] = (0, 5)
    """Epochs tried on the validation block for the rows that start at trained weights; 0 leaves
    them as they are, so that training on a target does not lose to not training on it."""
    wide_epochs: int = 6
    long_epochs: int = 100
    """Of the recipe, which trains on the target and the rendered hands together."""
    unlabelled: float = 0.75
    """Share of a batch that has no labels, where there is a teacher."""
    output_weight: float = 10.0
    """Of the teacher's answers beside L_REG."""
    lr: float = 3e-3
    """Adam on the source, cosine to zero. The paper's 2.5e-4, constant, needs its 200 epochs."""
    target_lr: float = 1e-3
    """Of the rows that start at theta_0."""
    fine_tune_lr: float = 1e-3
    """Of the rows that start at trained weights."""
    long_lr: float = 2e-3
    """Of the recipe."""
    tries: tuple[float, ...] = (10.0, 100.0, 1000.0)
    """Strengths sigma tried on the validation block for every tuned row. The unit is the loss's,
    cm^2."""
    test_time_rotations_deg: tuple[float, ...] = (-30.0, -15.0, 0.0, 15.0, 30.0)
    """On the target a prediction is the mean over pictures turned by these angles, for all rows;
    (0,) is the paper's."""
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        expect_positive(
            self,
            "batch",
            "source_epochs",
            "target_epochs",
            "output_weight",
            "wide_epochs",
            "long_epochs",
            "lr",
            "target_lr",
            "fine_tune_lr",
            "long_lr",
        )
        expect_at_least_one(self, "tries", "stops", "test_time_rotations_deg")
        if min(self.stops) < 0:
            raise InputError(f"--stops: expected numbers of epochs from 0, got {self.stops}")
        expect_share(self.unlabelled)


@dataclass(frozen=True)
class Experiment:
    """Settings of one run of everything. `demo` and `real` differ in the defaults only."""

    out: str = "runs/demo"
    target: Literal["rendered", "folder"] = "rendered"
    root: str = ""
    """Folder of the target's recordings (docs/recordings.md), splits train and test."""
    source_count: int = 2400
    """Rendered RGB-D hands to train on; a tenth as many, at most 1,000, test."""
    labels: int = 250
    """So many of them have labels."""
    with_prior: bool = False
    """Also learns the prior, and trains its rows and their controls on the target."""
    target_frames: int = 120
    """Frames in each of the four rendered training sequences; two other sequences are the test."""
    views_deg: float = 90.0
    """Largest angle between palm and camera in the source."""
    backgrounds: tuple[str, ...] = ()
    """Folders of photographs for backgrounds; empty = those that ship with cmkg, and generated
    clutter."""
    fast: bool = False
    """A tenth of the work, in runs/demo-fast: too short to be good."""
    wide_count: int = 0
    """Hands of the wide rendering (`cmkg render --wide`) that the recipe trains the source student
    on first; 0 leaves that out."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the target's training: order and augmentation. The source is trained once, with the
    first."""
    rows: tuple[str, ...] = ()
    """Only these rows of the target; empty = all."""
    net: Annotated[NetConfig, Flat] = field(default_factory=lambda: SMALL_NET)
    expert: Annotated[Expert, Flat] = field(default_factory=Expert)
    augmentation: Augmentation = field(default_factory=lambda: MILD_AUGMENTATION)
    """Of the target's training."""

    def __post_init__(self) -> None:
        expect_positive(self, "source_count", "labels", "target_frames")
        expect_from_zero(self, "wide_count")
        expect_different_seeds(self.seeds)
        if self.rows and not set(SHOWN) <= set(self.rows):
            raise InputError(f"--rows: the report compares {' and '.join(SHOWN)}; include them")


SETTINGS = Experiment()


def run(config: Experiment) -> dict[str, Any] | None:
    """Runs everything that is not finished, and writes the report; returns its results."""
    if config.target == "folder":
        if not config.root:
            raise InputError(
                "--root: expected a folder of recordings (docs/recordings.md), got none"
            )
        for split in (TRAIN, TEST):
            expect_files(Folder(config.root, split), config.root)
    photographs(config.backgrounds)  # mistakes show before a folder is made
    began = time.time()
    if config.fast:
        config = quicken(config)
    out = Path(config.out)
    folder = Run(out, config, "run")
    with folder.claim():
        on_first_rank(lambda: first_look(out))
        blocks = make_data(config, out / "data")
        stages = source_stages(config, out)
        rows = select_rows(target_rows(config, out), config.rows, "--rows")
        with Overall(work_of(config, out, stages, rows)) as overall:
            train_all(config, stages, rows, blocks, overall)
        write_sealed_json(
            out / "rows.json",
            {
                "rows": [row.summary() for row in rows],
                "stages": list(stages),
                "blocks": blocks._asdict(),
                "settings": asdict(config),
            },
        )
        results = write_report(out)
        folder.log(step=0, seconds=round(time.time() - began, 1))
    spent = format_duration(time.time() - began)
    say(f"{out}/report.html and {out}/results.json are written, {spent} in this session")
    return results


def train_all(
    config: Experiment,
    stages: dict[str, SourceStage],
    rows: list[Row],
    blocks: Blocks,
    overall: Overall,
) -> None:
    """The source's stages, then the target's rows; says what comes out."""
    out = Path(config.out)
    for name, stage in stages.items():
        say(f"{name}{overall.time_left()}")
        result = run_stage(stage)
        overall.finish(name)
        say(f"{name}: EPE {result['epe_mm']:.2f} mm on the source")
    score_untrained(config, out)
    shared = with_folders(target_stage(config), Folders.of(out / "data", out))
    for number, row in enumerate(rows, 1):
        say(f"target row {number} of {len(rows)}: {row.title}{overall.time_left()}")
        optim = replace(shared.optim, lr=rate_of(config, row))
        settings = replace(shared, optim=optim)
        home = out / "target" / row.name
        errors = train_row(settings, row, home, blocks, config.seeds, config.expert.tries)
        overall.finish(row.name)
        say(f"{row.title}: EPE {sum(errors) / len(errors):.2f} mm")


def first_look(out: Path) -> None:
    """What the network that comes with cmkg says of the first test pictures: within a minute."""
    from ..inference.drawing import draw_hands
    from ..inference.hand import Hand
    from ..inference.pictures import write_picture

    path = out / FIRST_LOOK
    if path.exists():
        return
    hand = Hand.from_pretrained()
    scene = SceneConfig(px=LOOK_PX, margin=1.7, photographs_only=True)
    hands = Rendered(scene, LOOKS, FIRST_TEST_SCENE + LOOKS).samples(range(LOOKS))
    tiles = [draw_hands(one.rgb, hand(one.rgb)) for one in hands]
    write_picture(path, np.vstack([np.hstack(tiles[: LOOKS // 2]), np.hstack(tiles[LOOKS // 2 :])]))
    say(f"{path}: hands that the network that comes with cmkg finds, while this trains its own")


def quicken(config: Experiment) -> Experiment:
    """The same in 90 seconds: too short to be good, long enough to see every part."""
    return replace(
        config,
        out=f"{config.out}-fast" if config.out == SETTINGS.out else config.out,
        fast=False,
        source_count=800,
        labels=120,
        target_frames=40,
        seeds=(0,),
        expert=replace(
            config.expert, source_epochs=5, stops=(0, 2), test_time_rotations_deg=(0.0,)
        ),
    )


def read_experiment(folder: Path) -> Experiment:
    """The settings of the run in a folder."""
    path = folder / "config.json"
    found: Experiment = expect_shape(read_settings(path) | {"out": str(folder)}, Experiment, path)
    return found


def write_report(out: Path) -> dict[str, Any] | None:
    """The page of a finished run, and its results."""
    from ..report import run_page

    say("report")
    return on_first_rank(lambda: run_page.write(out))


# ---- data ----------------------------------------------------------------------------------------
def make_data(config: Experiment, data: Path) -> Blocks:
    """Writes the packed sets; returns the blocks of target frames for tuning."""
    say("data")
    scene = SceneConfig(
        px=pixels_to_store(config.net.px),
        views_deg=config.views_deg,
        backgrounds=config.backgrounds,
        seed=config.seeds[0],
    )
    source_set = render.Render(str(data / "source"), config.source_count, scene=scene)
    test_count = min(1000, max(config.source_count // 10, 1))
    render.run(source_set)
    render.run(
        replace(source_set, out=str(data / "source-test"), count=test_count, first=FIRST_TEST_SCENE)
    )
    if config.wide_count:
        wide = replace(scene, wide=True, seed=config.seeds[0] + WIDE_SEED)
        render.run(replace(source_set, out=str(data / "wide"), count=config.wide_count, scene=wide))
    if config.target == "folder":
        return pack_folder(config.root, data, pixels_to_store(config.net.px))
    person = replace(scene, seed=config.seeds[0] + TARGET_SEED)
    return draw_sequences(person, data, config.target_frames, config.target_frames)


def pack_folder(root: str, data: Path, px: int) -> Blocks:
    """Packs the labelled records of a folder's train and test."""
    for name, split in (("target", TRAIN), ("target-test", TEST)):
        pack(labelled_part(Folder(root, split, px)), data / name)
    fit, train = (len(labelled_part(Folder(root, split, px))) for split in (FIT, TRAIN))
    return Blocks((0, fit), (fit, train))


def labelled_part(folder: Folder) -> Folder | Subset:
    """A folder, or its records that have a label."""
    numbers = tuple(i for i in range(len(folder)) if folder.has_label(i))
    return folder if len(numbers) == len(folder) else Subset(folder, numbers, "those with a label")


def draw_sequences(
    scene: SceneConfig,
    data: Path,
    frames: int,
    test_frames: int,
    sequences: int = SEQUENCES,
    test_sequences: int = TEST_SEQUENCES,
) -> Blocks:
    """Renders an STB-like target: sequences to train on, and others to test on.

    Each sequence has a background of its own; the last quarter of the training ones validates.
    """
    train = replace(scene, frames=frames, sequences=sequences)
    test = replace(scene, frames=test_frames, sequences=test_sequences, sequence_offset=sequences)
    render.run(render.Render(str(data / "target"), sequences * frames, scene=train))
    render.run(render.Render(str(data / "target-test"), test_sequences * test_frames, scene=test))
    return Blocks.last_quarter(sequences * frames)


# ---- source --------------------------------------------------------------------------------------
def source_stages(
    config: Experiment, out: Path, data: Path | None = None
) -> dict[str, SourceStage]:
    """Settings of the source's stages; all take as many steps, and see the same labels.

    data: the folder of the packed sets; None is `data` in out.

    `rgb` and `shuffled` are the controls of `depth`. `no-teacher` is the prior's: learned on the
    labels alone. `wide` goes on from `all` on other hands, for the recipe.
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


# ---- target --------------------------------------------------------------------------------------
UNTOUCHED = {
    "student": "student/student",
    "rgb": "rgb/distilled",
    "shuffled": "shuffled/distilled",
    "depth": "depth/distilled",
    "all": "all/student",
}


def score_untrained(config: Experiment, out: Path) -> None:
    """Rows without training on the target: the mean pose, and the source's students untouched."""
    on_first_rank(lambda: write_mean_pose(out))
    for name, weights in UNTOUCHED.items():
        evaluate.run(
            evaluate.Evaluate(
                weights=f"{out / weights}.safetensors",
                data=str(out / "data/target-test"),
                out=str(out / "target" / f"untouched-{name}"),
                student=str(out / "student"),
                source=str(out / "data/source"),
                convention=str(out / "data/target"),
                test_time_rotations_deg=config.expert.test_time_rotations_deg,
                precision=config.expert.precision,
            )
        )


def write_mean_pose(out: Path) -> None:
    """Scores the mean training pose, unless that is done."""
    folder = out / "target" / "mean-pose"
    if not (folder / "result.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        train, test = Packed(out / "data/target"), Packed(out / "data/target-test")
        found = score_mean_pose(train, test, folder)
        facts = {"outputs": outputs_of(folder), "place": place_of(folder)}
        write_sealed_json(folder / "result.json", found | facts)


def target_rows(config: Experiment, out: Path) -> list[Row]:
    """The rows that are trained on the target."""

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
        """Trained on with the source alongside, as its student saw it: it forgets less so."""
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


def target_stage(config: Experiment) -> target.Target:
    """Settings that all rows share."""
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
    """Rows from trained weights have a rate of their own."""
    return config.expert.fine_tune_lr if row.start else config.expert.target_lr


# ---- how long it takes ---------------------------------------------------------------------------
def work_of(
    config: Experiment, out: Path, stages: dict[str, SourceStage], rows: list[Row]
) -> dict[str, float]:
    """{stage or row: images that its training will see}, of what is not finished."""
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
    """{stage: images that its training will see}, of those that are not finished."""
    return {
        name: stage.optim.epochs * len(Packed(stage.source.data))
        for name, stage in stages.items()
        if not (Path(stage.out) / "result.json").exists()
    }
