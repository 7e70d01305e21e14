"""`cmkg run demo|real`: source with depth -> teacher -> student -> distillation with the prior
-> students on the target -> evaluation -> one report. Finished stages are reused, killed ones
go on where they were."""

import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from .. import engine
from ..errors import InputError
from ..hands.augment import Augmentation
from ..hands.datasets.packed import Packed, pack
from ..hands.datasets.real_hands import RealHands
from ..hands.model import Head
from ..prior import Prior
from . import distill, evaluate, render, student, target, teacher
from .common import at_least_one, from_zero, mean_pose, positive, seeds_from_zero

# In the source each picture is new: little augmentation is needed. A target is small: more.
SOURCE_AUGMENTATION = Augmentation(
    turn_deg=20, shift=0.03, zoom=0.05, colour=0.15, noise=0, erase=0
)
TARGET_AUGMENTATION = Augmentation(
    turn_deg=90, shift=0.04, zoom=0.08, colour=0.25, noise=0.02, erase=0.2
)


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
    backgrounds: str = ""
    """Folder of photographs for backgrounds; empty = those inside installed libraries, and
    generated clutter."""
    backbone: str = "resnet18"
    width: float = 0.25
    head: Head = "integral"
    """The paper's is pooled."""
    stem_stride: Literal[2, 4] = 2
    """The paper's is 4, for pictures of 256 px."""
    heatmap_weight: float = 1000.0
    """Of the integral head's heatmaps beside L_REG, in cm^2."""
    px: int = 64
    batch: int = 32
    teacher_epochs: int = 5
    student_epochs: int = 8
    distill_epochs: int = 3
    target_epochs: int = 5
    wide_count: int = 0
    """Hands of the wide rendering (`cmkg render --wide`) that the recipe trains the source
    student on first; 0 leaves that out."""
    wide_epochs: int = 6
    long_epochs: int = 100
    """Of the recipe, which trains on the target and the rendered hands together."""
    lr: float = 3e-3
    """Adam on the source, cosine to zero. The paper's 2.5e-4, constant, needs its 200 epochs."""
    target_lr: float = 1e-3
    """Of the rows that start at theta_0."""
    fine_tune_lr: float = 3e-4
    """Of the rows that start at trained weights. Both rates were chosen on the validation block
    of the real photographs."""
    long_lr: float = 2e-3
    """Of the recipe."""
    attention_weight: float = 1e3
    tries: tuple[float, ...] = (1.0, 10.0, 100.0)
    """Strengths sigma tried on the validation block for every tuned family with p = 2; p = 1
    tries a tenth of each, as |theta| pulls some ten times harder than theta^2 there. The unit
    is the loss's, cm^2."""
    turns_deg: tuple[float, ...] = (-30.0, -15.0, 0.0, 15.0, 30.0)
    """On the target a prediction is the mean over pictures turned by these angles, for all rows;
    (0,) is the paper's."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the target's training: order and augmentation. The source is trained once, with
    the first."""
    precision: engine.Precision = "auto"
    augmentation: Augmentation = field(default_factory=lambda: TARGET_AUGMENTATION)
    """Of the target's training."""

    def __post_init__(self):
        positive(
            self,
            "source_count",
            "target_frames",
            "px",
            "width",
            "heatmap_weight",
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
        from_zero(self, "wide_count")
        at_least_one(self, "tries", "turns_deg")
        seeds_from_zero(self.seeds)


PRESETS = {
    "demo": (
        "Everything rendered: the target is one person before one camera, RGB only. A quarter "
        "of an hour on two cores.",
        Experiment(),
    ),
    "real": (
        "The target is real photographs (--real-hands FOLDER). Two hours on two cores.",
        Experiment(
            out="runs/real",
            target="real hands",
            source_count=24_000,
            views_deg=180.0,
            width=0.375,
            teacher_epochs=2,
            student_epochs=12,
            distill_epochs=2,
            target_epochs=20,
            wide_count=72_000,
            long_epochs=180,
        ),
    ),
}


def run(config: Experiment):
    if config.target == "real hands":
        if not config.real_hands:
            raise InputError(
                "--real-hands: expected the folder with images/, params.mat and pose_gt.mat, "
                "got none"
            )
        # its labels are read: a mistake shows before the source is drawn
        len(RealHands(config.real_hands))
    began = time.time()
    out = Path(config.out)
    folder = engine.Run(out, config)
    blocks = make_data(config, out / "data")
    stages = source_stages(config, out)
    for name, stage in stages.items():
        engine.say(name)
        result = STAGE[name].run(stage)
        engine.say(f"{name}: EPE {result['epe_mm']:.2f} mm on the source")
    engine.on_first_rank(
        lambda: two_checkpoints(out, out / "distill/prior_two_checkpoints.safetensors")
    )
    baselines(config, out)
    plan = [row | {"name": name} for name, row in rows(config, out).items()]
    for number, row in enumerate(plan, 1):
        engine.say(f"target row {number} of {len(plan)}: {row['label']}")
        run_row(config, out, row, blocks)
    engine.write_json(
        out / "rows.json",
        {"rows": plan, "stages": list(stages), "blocks": blocks, "settings": asdict(config)},
    )
    engine.say("report")
    from ..report import page

    results = engine.on_first_rank(lambda: page.write(out))
    folder.log(step=0, seconds=round(time.time() - began, 1))
    engine.say(
        f"{out}/report.html and {out}/results.json are written, "
        f"{engine.duration(time.time() - began)} in this session"
    )
    return results


# ---- data ----------------------------------------------------------------------------------------
def make_data(config, data):
    """Writes the packed sets. Returns the blocks of target frames for tuning."""
    px = stored_px(config.px)
    source = render.Render(
        px=px, views_deg=config.views_deg, backgrounds=config.backgrounds, seed=config.seeds[0]
    )
    engine.say("data")
    render.run(replace(source, out=str(data / "source"), count=config.source_count))
    render.run(
        replace(
            source,
            out=str(data / "source-test"),
            count=min(1000, max(config.source_count // 10, 1)),
            first=10_000_000,
        )
    )
    if config.wide_count:
        render.run(
            replace(
                source,
                out=str(data / "wide"),
                count=config.wide_count,
                wide=True,
                seed=config.seeds[0] + 2,
            )
        )
    if config.target == "real hands":
        for name, block in (("target", "train"), ("target-test", "test")):
            pack(RealHands(config.real_hands, block, px), data / name, workers=1)
        return {"fit": (0, 300), "validation": (300, 360)}
    return draw_sequences(
        replace(source, seed=config.seeds[0] + 1), data, config.target_frames, config.target_frames
    )


def draw_sequences(stage, data, frames, test_frames, sequences=4, tests=2):
    """Renders an STB-like target: sequences of `frames` to train on, `tests` others of
    `test_frames` to test on.

    Each sequence has a background of its own. Returns the blocks for tuning: the last quarter of
    the sequences validates.
    """
    train = replace(
        stage,
        frames=frames,
        sequences=sequences,
        count=sequences * frames,
        out=str(data / "target"),
    )
    test = replace(
        stage,
        frames=test_frames,
        sequences=tests,
        sequence_offset=sequences,
        count=tests * test_frames,
        out=str(data / "target-test"),
    )
    render.run(train)
    render.run(test)
    return tuning_blocks(sequences * frames)


def tuning_blocks(count):
    """The frames of a rendered target to fit and to validate on: its last quarter validates."""
    return {"fit": (0, count * 3 // 4), "validation": (count * 3 // 4, count)}


def stored_px(px):
    """Pixels of the stored picture: networks read px of a margin of 1.25 boxes."""
    return -(-px * 5 // 4 // 2) * 2


# ---- source --------------------------------------------------------------------------------------
STAGE = {
    "teacher": teacher,
    "student": student,
    "continued": student,
    "distill": distill,
    "wide": student,
}


def source_stages(config, out):
    """Settings of the source's stages. `continued` is the control of distillation: as many
    epochs more on L_REG alone. `wide` goes on from there on other hands, for the recipe."""
    shared = {
        "data": str(out / "data/source"),
        "test": str(out / "data/source-test"),
        "batch": config.batch,
        "lr": config.lr,
        "schedule": "cosine",
        "seed": config.seeds[0],
        "precision": config.precision,
        "augmentation": SOURCE_AUGMENTATION,
    }
    net = {
        n: getattr(config, n)
        for n in ("backbone", "width", "head", "stem_stride", "heatmap_weight", "px")
    }
    at = {name: str(out / name) for name in STAGE}
    half, whole = f"{at['student']}/student.safetensors", f"{at['continued']}/student.safetensors"
    stages = {
        "teacher": teacher.Teacher(
            out=at["teacher"], epochs=config.teacher_epochs, **net, **shared
        ),
        "student": student.Student(
            out=at["student"], epochs=config.student_epochs, **net, **shared
        ),
        "continued": student.Student(
            out=at["continued"], epochs=config.distill_epochs, start=half, **net, **shared
        ),
        "distill": distill.Distill(
            out=at["distill"],
            epochs=config.distill_epochs,
            student=at["student"],
            teacher=at["teacher"],
            attention_weight=config.attention_weight,
            **shared,
        ),
    }
    if config.wide_count:
        other = shared | {"data": str(out / "data/wide"), "lr": config.long_lr}
        stages["wide"] = student.Student(
            out=at["wide"], epochs=config.wide_epochs, start=whole, **net, **other
        )
    return stages


def two_checkpoints(out, path, start="student", end=None):
    """A prior that takes no meta-learning: from theta at `start`, of the student's folder, and
    at `end`, by default distilled."""
    if path.exists():
        return
    net = distill.build(out / "student", 3, start)[0]
    before = {n: t.detach().clone() for n, t in net.named_parameters()}
    after = dict(
        engine.load_weights(end or out / "distill/distilled.safetensors", net).named_parameters()
    )
    learned = Prior.load(out / "distill/prior_p2.safetensors").manifest
    manifest = {k: learned[k] for k in ("fingerprint", "architecture", "source")}
    Prior.from_checkpoints(before, after, beta=learned["beta"], **manifest).save(path)


def baselines(config, out):
    """Rows without training on the target: the mean training pose, and both source students
    untouched."""
    engine.on_first_rank(lambda: write_mean_pose(out))
    for name, weights in (
        ("untouched-student", "continued/student"),
        ("untouched-distilled", "distill/distilled"),
    ):
        evaluate.run(
            evaluate.Evaluate(
                f"{out / weights}.safetensors",
                str(out / "data/target-test"),
                str(out / "target" / name),
                str(out / "student"),
                str(out / "data/source"),
                str(out / "data/target"),
                config.turns_deg,
                config.precision,
            )
        )


def write_mean_pose(out):
    folder = out / "target" / "mean-pose"
    if not (folder / "result.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        result = mean_pose(Packed(out / "data/target"), Packed(out / "data/target-test"), folder)
        engine.write_json(folder / "result.json", result)


DIVERGED = 1e9  # mm


# ---- target --------------------------------------------------------------------------------------
def rows(config, out):
    """The target table: {folder name: label, settings of target.Target, whether sigma is tuned}."""

    def file(path):
        return str(out / f"{path}.safetensors")

    phi_1, phi_2, two = (file(f"distill/prior_{n}") for n in ("p1", "p2", "two_checkpoints"))
    distilled = file("distill/distilled")
    from_distilled = {"start": distilled, "centre": distilled}

    def row(label, tuned=False, **settings):
        return {
            "label": label,
            "tuned": tuned,
            "settings": settings,
        }

    return {
        "none": row("no regulariser"),
        "l2-paper": row("ℓ², σ = 1e-5 (paper)", sigma=1e-5),
        "l1-paper": row("ℓ¹, σ = 1e-4 (paper)", sigma=1e-4, exponent=1),
        "l2": row("ℓ², σ tuned", True),
        "prior-p1": row("prior, p = 1", True, prior=phi_1),
        "prior-p2": row("prior, p = 2", True, prior=phi_2),
        "prior-permuted": row(
            "control: φ permuted within layers", True, prior=phi_2, permuted=True
        ),
        "prior-two-checkpoints": row("control: two-checkpoint φ", True, prior=two),
        "fine-tune-student": row("fine-tuned source student", start=file("continued/student")),
        "fine-tune-distilled": row("fine-tuned distilled student", start=distilled),
        "recipe": row(
            "the recipe: trained on with rendered hands alongside", **recipe(config, out)
        ),
        "l2-sp": row("distilled student, ℓ² around it (L2-SP)", True, **from_distilled),
        "prior-centred": row(
            "distilled student, prior around it (φ ≥ 0)", True, prior=phi_2, **from_distilled
        ),
    }


def recipe(config, out):
    """Settings of the row that was chosen on held-out training frames, see docs/study.md: what
    each of them brings is `cmkg run ingredients`."""
    start, hands = (
        ("wide/student", "data/wide") if config.wide_count else ("continued/student", "data/source")
    )
    return {
        "start": str(out / f"{start}.safetensors"),
        "scale": "set",
        "alongside": str(out / hands),
        "epochs": config.long_epochs,
        "lr": config.long_lr,
    }


def run_row(config, out, row, blocks, folders=None):
    """Tunes sigma on the validation block (first seed), then trains on the whole training split
    with every seed. folders: the packed sets and the student, where they do not lie in `out`.

    Should the chosen strength diverge there, the next best is taken.
    """
    folders = folders or {
        "data": str(out / "data/target"),
        "test": str(out / "data/target-test"),
        "student": str(out / "student"),
        "source": str(out / "data/source"),
    }
    budget = {
        "epochs": config.target_epochs,
        "lr": config.fine_tune_lr if "start" in row["settings"] else config.target_lr,
    }
    stage = target.Target(
        batch=config.batch,
        schedule="cosine",
        seed=config.seeds[0],
        turns_deg=config.turns_deg,
        precision=config.precision,
        augmentation=config.augmentation,
        **folders,
        **budget | row["settings"],
    )
    home = out / "target" / row["name"]
    if not row["tuned"]:
        return train_seeds(config, stage, home)
    tenth = 0.1 if stage.prior.endswith("_p1.safetensors") else 1.0
    trial = replace(stage, frames=blocks["fit"], validation=blocks["validation"])
    tried = {
        t * tenth: validation_error(
            replace(trial, sigma=t * tenth, out=str(home / f"try-{t * tenth:g}"))
        )
        for t in config.tries
    }
    for best in sorted(tried, key=tried.get):
        facts = {
            "validation_epe_mm": {f"{s:g}": e for s, e in tried.items()},
            "chosen": best,
            "at_the_edge": best in (min(tried), max(tried)),
        }
        engine.write_json(home / "tried.json", facts)
        try:
            return train_seeds(config, replace(stage, sigma=best), home / f"sigma-{best:g}")
        except InputError as error:
            refuse_unless_diverged(error, home)
    raise InputError(
        f"{home}: training diverged at every strength of {config.tries}; give smaller --tries"
    )


def train_seeds(config, stage, home):
    for seed in config.seeds:
        target.run(replace(stage, seed=seed, out=str(home / f"seed-{seed}")))


def refuse_unless_diverged(error, where):
    if "expected a finite number" not in str(error):
        raise error
    engine.console.print(f"{where}: diverged ({error})")


def validation_error(trial):
    """Validation EPE of one try; a strength at which training diverges loses, it does not end
    the experiment."""
    try:
        found = target.run(trial)["epe_mm"]
    except InputError as error:
        refuse_unless_diverged(error, trial.out)
        return DIVERGED
    return found if math.isfinite(found) else DIVERGED
