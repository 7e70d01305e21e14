"""`cmkg run weights`: the student that comes with cmkg, from rendered hands alone.

All views, gestures, objects in front, boxes that are off. A depth teacher, then a student on the
labels, then with the teacher (the paper's two halves); the controls take the second half's steps
without it, and with the depth of other hands. And a finder of hands in whole pictures. No labelled
photograph is seen, and no hand of anybody: the result may be passed on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from ...runtime.checks import expect_positive
from ...runtime.distributed import Precision
from ...runtime.files import write_json
from ...runtime.progress import Overall, say
from ...runtime.settings import replace_settings
from ..datasets.sample import pixels_to_store
from ..network.augment import Augmentation
from ..network.posenet import NetConfig
from ..rendering.scenes import SceneConfig
from ..stages import distill, export, finder, presence, render, source
from ..stages.settings import Flat, OptimConfig, SourceData
from .main import FIRST_TEST_SCENE, SLIM_NET, work_of_stages
from .rows import SourceStage, run_stage

NET = replace(SLIM_NET, px=96, stem_stride=4, upright=True)
AUGMENTATION = Augmentation(turn_deg=40, shift=0.05, zoom=0.1, colour=0.3, noise=0.03, erase=0.1)
SCENE = SceneConfig(wide=True, views_deg=180.0, box_shift=0.12, box_zoom=0.2, in_front=0.3)
TEST_COUNT = 2000
# Hands with much around them, for the finder.
FAR = SceneConfig(wide=True, px=160, margin=3.2, box_zoom=0.6, in_front=0.15, noisy_depth=False)
FAR_SHARE = 0.2  # so many of them, of the near ones


@dataclass(frozen=True)
class Weights:
    """Settings of the student that comes with cmkg."""

    out: str = "runs/weights"
    count: int = 40_000
    """Rendered hands."""
    teacher_epochs: int = 5
    epochs: int = 8
    """Of the student's first half, and of its second."""
    batch: int = 32
    lr: float = 3e-3
    finder_pictures: int = 150_000
    """Whole pictures that the finder is trained on."""
    presence_pictures: int = 600_000
    """Pictures on which hands are learned to be told from other things."""
    seed: int = 0
    criterion: Annotated[distill.Criterion, Flat] = field(
        default_factory=lambda: distill.Criterion("paper")
    )
    controls: bool = False
    """Also the second half without the teacher, and with the depth of other hands."""
    net: Annotated[NetConfig, Flat] = field(default_factory=lambda: NET)
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        expect_positive(
            self,
            "count",
            "teacher_epochs",
            "epochs",
            "batch",
            "lr",
            "finder_pictures",
            "presence_pictures",
        )


WEIGHTS = Weights()


def run(config: Weights) -> None:
    """Renders, trains what is not finished, exports to `hand` in the folder."""
    out = Path(config.out)
    make_data(config, out / "data")
    stages = stages_of(config, out)
    overall = Overall(work_of_stages(stages))
    errors: dict[str, Any] = {}
    for name, stage in stages.items():
        say(f"{name}{overall.time_left()}")
        errors[name] = run_stage(stage)["epe_mm"]
        overall.finish(name)
        say(f"{name}: EPE {errors[name]:.2f} mm on rendered hands")
    finder.run(finder_stage(config, out))
    presence.run(presence_stage(config, out))
    write_json(out / "weights.json", {"epe_mm": errors, "hands": config.count})
    export.run(
        export.Export(
            stage=str(out / "distilled"),
            student=str(out / "student"),
            out=str(out / "hand"),
            data=str(out / "data/train-test"),
            onnx=True,
            int8=True,
            finder=str(out / "finder"),
            presence=str(out / "presence"),
            half=True,
        )
    )


def make_data(config: Weights, data: Path) -> None:
    """Writes the packed sets."""
    px = pixels_to_store(config.net.px)
    scene = replace_settings(SCENE, px=px, seed=config.seed)
    train = render.Render(str(data / "train"), config.count, scene=scene)
    render.run(train)
    far_scene = replace_settings(FAR, seed=config.seed)
    far = render.Render(str(data / "far"), round(config.count * FAR_SHARE), scene=far_scene)
    render.run(far)
    for one, count in ((train, TEST_COUNT), (far, TEST_COUNT // 2)):
        count, out = min(count, one.count), f"{one.out}-test"
        render.run(replace_settings(one, out=out, count=count, first=FIRST_TEST_SCENE))


def finder_stage(config: Weights, out: Path) -> finder.TrainFinder:
    """Settings of the finder's training."""
    near, far = str(out / "data/train"), str(out / "data/far")
    return finder.TrainFinder(
        sets=(near, far),
        test=(f"{near}-test", f"{far}-test"),
        out=str(out / "finder"),
        pictures=config.finder_pictures,
        optim=OptimConfig(1, config.batch, 2e-3, "cosine", config.seed, config.precision),
    )


def presence_stage(config: Weights, out: Path) -> presence.TrainPresence:
    """Settings of the training of what tells hands from other things."""
    near, far = str(out / "data/train"), str(out / "data/far")
    return presence.TrainPresence(
        student=str(out / "student"),
        hands=near,
        around=far,
        test=(f"{near}-test", f"{far}-test"),
        out=str(out / "presence"),
        upright=config.net.upright,
        pictures=config.presence_pictures,
        optim=OptimConfig(1, 2 * config.batch, 1e-3, "cosine", config.seed, config.precision),
    )


def stages_of(config: Weights, out: Path) -> dict[str, SourceStage]:
    """{name: its settings}, in their order; the controls last."""
    sets = SourceData(str(out / "data/train"), test=str(out / "data/train-test"))
    optim = OptimConfig(
        config.epochs, config.batch, config.lr, "cosine", config.seed, config.precision
    )
    student = source.Source(
        out=str(out / "student"),
        source=sets,
        net=config.net,
        optim=optim,
        augmentation=AUGMENTATION,
    )
    teacher = replace_settings(
        student, modality="depth", out=str(out / "teacher"), epochs=config.teacher_epochs
    )
    distilled = distill.Distill(
        student=str(out / "student"),
        teacher=str(out / "teacher"),
        out=str(out / "distilled"),
        criterion=config.criterion,
        source=sets,
        phi=distill.PhiConfig(exponents=()),
        optim=optim,
        augmentation=AUGMENTATION,
    )
    stages: dict[str, SourceStage] = {
        "teacher": teacher,
        "student": student,
        "distilled": distilled,
    }
    if config.controls:
        stages["continued"] = replace_settings(
            distilled, use_teacher=False, out=str(out / "continued")
        )
        stages["shuffled"] = replace_settings(distilled, shuffled=True, out=str(out / "shuffled"))
    return stages
