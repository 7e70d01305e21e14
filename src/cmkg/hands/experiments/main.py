"""`cmkg run demo` and `cmkg run real`: from the source with depth to students on the target.

Source -> teacher -> student -> distillation with the prior -> students on the target -> evaluation
-> one report. Finished stages are reused, killed ones go on where they were.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from ...errors import InputError
from ...prior import Prior
from ...runtime.checks import (
    expect_at_least_one,
    expect_different_seeds,
    expect_from_zero,
    expect_positive,
)
from ...runtime.distributed import Precision, on_first_rank
from ...runtime.files import load_weights, read_json, write_json
from ...runtime.progress import Overall, format_duration, say
from ...runtime.runs import Run, replace_settings
from ..datasets.packed import Packed, pack
from ..datasets.real_hands import BLOCKS, RealHands
from ..datasets.sample import pixels_to_store
from ..network.augment import Augmentation
from ..network.posenet import NetConfig
from ..rendering.backgrounds import photographs
from ..rendering.scenes import SceneConfig
from ..stages import distill, evaluate, render, source, target
from ..stages.networks import load_network
from ..stages.predicting import score_mean_pose
from ..stages.settings import Flat, OptimConfig, SourceData
from .rows import Blocks, Folders, Row, SourceStage, run_stage, train_row

# In the source each picture is new: little augmentation is needed. A target is small: more.
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
SEQUENCES, TEST_SEQUENCES = 4, 2  # of a rendered target
TARGET_SEED, WIDE_SEED = 1, 2  # added to the source's seed


@dataclass(frozen=True)
class Expert:
    """How each part is trained."""

    batch: int = 32
    teacher_epochs: int = 5
    student_epochs: int = 8
    distill_epochs: int = 3
    target_epochs: int = 5
    wide_epochs: int = 6
    long_epochs: int = 100
    """Of the recipe, which trains on the target and the rendered hands together."""
    lr: float = 3e-3
    """Adam on the source, cosine to zero. The paper's 2.5e-4, constant, needs its 200 epochs."""
    target_lr: float = 1e-3
    """Of the rows that start at theta_0."""
    fine_tune_lr: float = 3e-4
    """Of the rows that start at trained weights. Both rates were chosen on the validation block of
    the real photographs."""
    long_lr: float = 2e-3
    """Of the recipe."""
    attention_weight: float = 1e3
    """lambda of Eq. 4."""
    tries: tuple[float, ...] = (1.0, 10.0, 100.0)
    """Strengths sigma tried on the validation block for every tuned family with p = 2; p = 1 tries
    a tenth of each, as |theta| pulls some ten times harder than theta^2 there. The unit is the
    loss's, cm^2."""
    test_time_rotations_deg: tuple[float, ...] = (-30.0, -15.0, 0.0, 15.0, 30.0)
    """On the target a prediction is the mean over pictures turned by these angles, for all rows;
    (0,) is the paper's."""
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        expect_positive(
            self,
            "batch",
            "teacher_epochs",
            "student_epochs",
            "distill_epochs",
            "target_epochs",
            "wide_epochs",
            "long_epochs",
            "lr",
            "target_lr",
            "fine_tune_lr",
            "long_lr",
        )
        expect_at_least_one(self, "tries", "test_time_rotations_deg")


@dataclass(frozen=True)
class Experiment:
    """Settings of one run of everything. `demo` and `real` differ in the defaults only."""

    out: str = "runs/demo"
    target: Literal["rendered", "real hands"] = "rendered"
    real_hands: str = ""
    """Folder with the real photographs: images/, params.mat, pose_gt.mat."""
    source_count: int = 5000
    """Rendered RGB-D hands to train on; a tenth as many, at most 1,000, test."""
    target_frames: int = 120
    """Frames in each of the four rendered training sequences; two other sequences are the test."""
    views_deg: float = 90.0
    """Largest angle between palm and camera in the source."""
    backgrounds: tuple[str, ...] = ()
    """Folders of photographs for backgrounds; empty = those that ship with cmkg, and generated
    clutter."""
    wide_count: int = 0
    """Hands of the wide rendering (`cmkg render --wide`) that the recipe trains the source student
    on first; 0 leaves that out."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the target's training: order and augmentation. The source is trained once, with the
    first."""
    net: Annotated[NetConfig, Flat] = field(default_factory=lambda: SLIM_NET)
    expert: Annotated[Expert, Flat] = field(default_factory=Expert)
    augmentation: Augmentation = field(default_factory=lambda: TARGET_AUGMENTATION)
    """Of the target's training."""

    def __post_init__(self) -> None:
        expect_positive(self, "source_count", "target_frames")
        expect_from_zero(self, "wide_count")
        expect_different_seeds(self.seeds)


DEMO = Experiment()
REAL = Experiment(
    out="runs/real",
    target="real hands",
    source_count=24_000,
    views_deg=180.0,
    wide_count=72_000,
    net=WIDER_NET,
    expert=Expert(
        teacher_epochs=2,
        student_epochs=12,
        distill_epochs=2,
        target_epochs=20,
        long_epochs=180,
    ),
)


def run(config: Experiment) -> dict[str, Any] | None:
    """Runs everything that is not finished, and writes the report; returns its results."""
    if config.target == "real hands":
        if not config.real_hands:
            raise InputError(
                "--real-hands: expected the folder with images/, params.mat and pose_gt.mat, got "
                "none"
            )
        len(RealHands(config.real_hands))
    photographs(config.backgrounds)  # mistakes show before a folder is made
    began = time.time()
    out = Path(config.out)
    folder = Run(out, config, "run")
    with folder.claim():
        blocks = make_data(config, out / "data")
        stages = source_stages(config, out)
        rows = target_rows(config, out)
        overall = Overall(work_of(config, out, stages, rows))
        for name, stage in stages.items():
            say(f"{name}{overall.time_left()}")
            result = run_stage(stage)
            overall.finish(name)
            say(f"{name}: EPE {result['epe_mm']:.2f} mm on the source")
        path = out / "distill/prior_two_checkpoints.safetensors"
        on_first_rank(lambda: write_two_checkpoint_prior(out, path))
        score_untrained(config, out)
        shared = with_folders(target_stage(config), Folders.of(out / "data", out))
        for number, row in enumerate(rows, 1):
            say(f"target row {number} of {len(rows)}: {row.title}{overall.time_left()}")
            settings = replace_settings(shared, lr=rate_of(config, row))
            home = out / "target" / row.name
            errors = train_row(settings, row, home, blocks, config.seeds, config.expert.tries)
            overall.finish(row.name)
            say(f"{row.title}: EPE {sum(errors) / len(errors):.2f} mm")
        write_json(
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


def read_experiment(folder: Path) -> Experiment:
    """The settings of the run in a folder."""
    held = read_json(folder / "config.json")
    expert = held["expert"]
    expert |= {name: tuple(expert[name]) for name in ("tries", "test_time_rotations_deg")}
    groups = {
        "net": NetConfig(**held["net"]),
        "expert": Expert(**expert),
        "augmentation": Augmentation(**held["augmentation"]),
        "seeds": tuple(held["seeds"]),
        "backgrounds": tuple(held["backgrounds"]),
    }
    return Experiment(**held | groups | {"out": str(folder)})


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
        replace_settings(
            source_set, out=str(data / "source-test"), count=test_count, first=FIRST_TEST_SCENE
        )
    )
    if config.wide_count:
        seed = config.seeds[0] + WIDE_SEED
        wide = replace_settings(source_set, out=str(data / "wide"), count=config.wide_count)
        render.run(replace_settings(wide, wide=True, seed=seed))
    if config.target == "real hands":
        return pack_real_hands(config.real_hands, data, pixels_to_store(config.net.px))
    target_set = replace_settings(source_set, seed=config.seeds[0] + TARGET_SEED)
    return draw_sequences(target_set, data, config.target_frames, config.target_frames)


def pack_real_hands(folder: str, data: Path, px: int) -> Blocks:
    """Packs the photographs' training and test frames."""
    for name, block in (("target", "train"), ("target-test", "test")):
        pack(RealHands(folder, block, px), data / name, workers=1)
    return Blocks(BLOCKS["fit"], BLOCKS["validation"])


def draw_sequences(
    stage: render.Render,
    data: Path,
    frames: int,
    test_frames: int,
    sequences: int = SEQUENCES,
    test_sequences: int = TEST_SEQUENCES,
) -> Blocks:
    """Renders an STB-like target: sequences to train on, and others to test on.

    Each sequence has a background of its own; the last quarter of the training ones validates.
    """
    train = replace_settings(stage, frames=frames, sequences=sequences)
    train = replace_settings(train, count=sequences * frames, out=str(data / "target"))
    test = replace_settings(stage, frames=test_frames, sequences=test_sequences)
    test = replace_settings(test, sequence_offset=sequences, out=str(data / "target-test"))
    render.run(train)
    render.run(replace_settings(test, count=test_sequences * test_frames))
    return Blocks.last_quarter(sequences * frames)


# ---- source --------------------------------------------------------------------------------------
def source_stages(config: Experiment, out: Path) -> dict[str, SourceStage]:
    """Settings of the source's stages.

    `continued` is the control of distillation: as many epochs more on L_REG alone. `wide` goes on
    from there on other hands, for the recipe.
    """
    data = SourceData(str(out / "data/source"), test=str(out / "data/source-test"))

    def optim(epochs: int) -> OptimConfig:
        return OptimConfig(
            epochs,
            config.expert.batch,
            config.expert.lr,
            "cosine",
            config.seeds[0],
            config.expert.precision,
        )

    def train(name: str, epochs: int, modality: Any, start: str = "") -> source.Source:
        weights = f"{out / start / 'student'}.safetensors" if start else ""
        return source.Source(
            modality=modality,
            out=str(out / name),
            start=weights,
            source=data,
            net=config.net,
            optim=optim(epochs),
            augmentation=SOURCE_AUGMENTATION,
        )

    stages: dict[str, SourceStage] = {
        "teacher": train("teacher", config.expert.teacher_epochs, "depth"),
        "student": train("student", config.expert.student_epochs, "rgb"),
        "continued": train("continued", config.expert.distill_epochs, "rgb", "student"),
        "distill": distill.Distill(
            student=str(out / "student"),
            teacher=str(out / "teacher"),
            out=str(out / "distill"),
            criterion=distill.Criterion(attention_weight=config.expert.attention_weight),
            source=data,
            optim=optim(config.expert.distill_epochs),
            augmentation=SOURCE_AUGMENTATION,
        ),
    }
    if config.wide_count:
        wide = train("wide", config.expert.wide_epochs, "rgb", "continued")
        hands = str(out / "data/wide")
        stages["wide"] = replace_settings(wide, data=hands, lr=config.expert.long_lr)
    return stages


def write_two_checkpoint_prior(
    out: Path, path: Path, start: str = "student", end: Path | None = None
) -> None:
    """Writes a prior that takes no meta-learning, unless it is there.

    Args:
        out: the run's folder.
        path: the prior's file.
        start: weights in the student's folder that it begins with.
        end: the file that it ends with; None is the distilled student.
    """
    if path.exists():
        return
    net, _ = load_network(out / "student", "rgb", start)
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    load_weights(end or out / "distill/distilled.safetensors", net)
    after = dict(net.named_parameters())
    learned = Prior.load(out / "distill/prior_p2.safetensors").manifest
    facts = {name: learned[name] for name in ("fingerprint", "architecture", "source")}
    Prior.from_checkpoints(before, after, learned["beta"], facts).save(path)


# ---- target --------------------------------------------------------------------------------------
def score_untrained(config: Experiment, out: Path) -> None:
    """Rows without training on the target: the mean pose, and both source students untouched."""
    on_first_rank(lambda: write_mean_pose(out))
    untouched = {
        "untouched-student": "continued/student",
        "untouched-distilled": "distill/distilled",
    }
    for name, weights in untouched.items():
        evaluate.run(
            evaluate.Evaluate(
                weights=f"{out / weights}.safetensors",
                data=str(out / "data/target-test"),
                out=str(out / "target" / name),
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
        write_json(folder / "result.json", score_mean_pose(train, test, folder))


def target_rows(config: Experiment, out: Path) -> list[Row]:
    """The target table."""

    def file(path: str) -> str:
        return str(out / f"{path}.safetensors")

    phi_1, phi_2 = file("distill/prior_p1"), file("distill/prior_p2")
    two = file("distill/prior_two_checkpoints")
    student, distilled = file("continued/student"), file("distill/distilled")
    around = {"start": distilled, "centre": distilled}
    phi = {"prior": phi_2}
    return [
        Row("none", "no regulariser"),
        Row("l2-paper", "ℓ², σ = 1e-5 (paper)", {"sigma": 1e-5}),
        Row("l1-paper", "ℓ¹, σ = 1e-4 (paper)", {"sigma": 1e-4, "exponent": 1}),
        Row("l2", "ℓ², σ tuned", tuned=True),
        Row("prior-p1", "prior, p = 1", {"prior": phi_1}, tuned=True),
        Row("prior-p2", "prior, p = 2", phi, tuned=True),
        Row(
            "prior-permuted",
            "φ permuted within layers",
            phi | {"permuted": True},
            tuned=True,
            is_control=True,
        ),
        Row(
            "prior-two-checkpoints",
            "two-checkpoint φ",
            {"prior": two},
            tuned=True,
            is_control=True,
        ),
        Row("fine-tune-student", "fine-tuned source student", {"start": student}),
        Row("fine-tune-distilled", "fine-tuned distilled student", {"start": distilled}),
        Row(
            "recipe",
            "the recipe: trained on with rendered hands alongside",
            recipe_of(config, out),
        ),
        Row("l2-sp", "distilled student, ℓ² around it (L2-SP)", around, tuned=True),
        Row(
            "prior-centred",
            "distilled student, prior around it (φ ≥ 0)",
            phi | around,
            tuned=True,
        ),
    ]


def recipe_of(config: Experiment, out: Path) -> dict[str, Any]:
    """Settings of the row that was chosen on held-out training frames, see docs/study.md.

    What each of them brings is studies/ingredients.py.
    """
    start, hands = ("wide", "wide") if config.wide_count else ("continued", "source")
    return {
        "start": str(out / start / "student.safetensors"),
        "scale": "set",
        "alongside": str(out / "data" / hands),
        "epochs": config.expert.long_epochs,
        "lr": config.expert.long_lr,
    }


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


def with_folders(stage: target.Target, folders: Folders) -> target.Target:
    """The stage on a target's sets, from a source's student."""
    return replace_settings(stage, **asdict(folders))


def rate_of(config: Experiment, row: Row) -> float:
    """Trained weights are moved more slowly than theta_0."""
    return config.expert.fine_tune_lr if "start" in row.changes else config.expert.target_lr


# ---- how long it takes ---------------------------------------------------------------------------
def work_of(
    config: Experiment, out: Path, stages: dict[str, SourceStage], rows: list[Row]
) -> dict[str, float]:
    """{stage or row: images that its training will see}, of what is not finished."""
    work: dict[str, float] = {}
    for name, stage in stages.items():
        if not (Path(stage.out) / "result.json").exists():
            work[name] = stage.optim.epochs * len(Packed(stage.source.data))
    count = len(Packed(out / "data/target"))
    for row in rows:
        done = len(list((out / "target" / row.name).rglob("seed-*/result.json")))
        trainings = len(config.seeds) - done + (len(config.expert.tries) if row.tuned else 0)
        images = row.changes.get("epochs", config.expert.target_epochs) * count
        if done < len(config.seeds):
            work[row.name] = trainings * images * (2 if "alongside" in row.changes else 1)
    return work
