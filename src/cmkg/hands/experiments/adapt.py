"""`cmkg adapt`: a student for one camera and person, from labelled frames of them.

The recipe of docs/study.md: it begins from a student that is there, keeps rendered hands alongside
so that little is forgotten, and speaks in the person's own scale. Frames that follow each other are
held out; what adapting gained is told on them, and when nothing is gained on the validation block
the student stays as it was.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...runtime.checks import expect_from_zero, expect_positive
from ...runtime.distributed import Precision
from ...runtime.files import save_weights, write_json
from ...runtime.progress import say
from ...runtime.runs import Run
from ...runtime.settings import replace_settings
from ..datasets.packed import Packed
from ..datasets.sample import pixels_to_store
from ..inference.hand import OWN
from ..inference.running import FINDER_FILE, PRESENCE_FILE
from ..network.hand_student import HandStudent, load_student
from ..network.posenet import NetConfig
from ..report.collect import chosen_folder
from ..stages import export, render, target
from ..stages.inputs import checksums_of
from ..stages.settings import OptimConfig
from .main import SLIM_NET, TARGET_AUGMENTATION
from .rows import Blocks, Row, train_row
from .weights import SCENE

FEWEST = 20  # frames


@dataclass(frozen=True)
class Adapt:
    """Settings of adapting a student."""

    data: str
    """Packed set of the labelled frames, in the order in which they were taken (cmkg data pack)."""
    weights: str = ""
    """A folder that `cmkg export` wrote: the student to begin from, of rendered hands; empty = the
    one that comes with cmkg."""
    out: str = "runs/adapted"
    rendered: int = 4000
    """Rendered hands alongside."""
    epochs: int = 60
    lr: float = 1e-3
    batch: int = 32
    held_out: float = 0.2
    """Share of the frames, the last ones, on which the gain is told."""
    seed: int = 0
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        expect_positive(self, "rendered", "epochs", "lr", "batch")
        expect_from_zero(self, "seed")
        if not 0 < self.held_out < 1:
            raise InputError(f"--held-out: expected a share between 0 and 1, got {self.held_out}")


def run(config: Adapt) -> dict[str, Any]:
    """Adapts, tells the gain on held-out frames, exports to `hand` in the folder."""
    packed = Packed(config.data)
    if len(packed) < FEWEST:
        raise InputError(
            f"--data {config.data}: has {len(packed)} frames; expected {FEWEST} or more"
        )
    packed.expect_labels()
    weights = Path(config.weights or OWN)
    student = load_student(weights)
    out = Path(config.out)
    inputs = checksums_of(data=config.data, weights=str(weights))
    run = Run(out, config, "adapt", inputs=inputs)
    result = run.result
    if result is None:
        with run.claim():
            result = run.finish(adapt(config, packed, student, weights))
    before, after = result["untouched_mm"], result["adapted_mm"]
    print(
        f"on {result['held_out_frames']} held-out frames: {before:.1f} mm untouched, {after:.1f} "
        f"mm adapted ({100 * (after / before - 1):+.0f} %)"
    )
    return result


def adapt(config: Adapt, packed: Packed, student: HandStudent, weights: Path) -> dict[str, Any]:
    """Everything of it; returns the errors in mm on the held-out frames before and after."""
    out = Path(config.out)
    write_start(student, out / "start")
    scene = replace_settings(SCENE, px=pixels_to_store(student.px), seed=config.seed)
    render.run(render.Render(str(out / "rendered"), config.rendered, scene=scene))

    train = len(packed) - max(round(len(packed) * config.held_out), 1)
    stage = stage_of(config, out, train, len(packed))
    say(f"{len(packed)} frames: {train} to adapt to, {len(packed) - train} held out")
    before = target.run(replace_settings(stage, epochs=0, out=str(out / "untouched")))["epe_mm"]
    row = Row("adapted", "adapted", stops=(0, config.epochs))
    (after,) = train_row(
        stage, row, out / "adapted", Blocks.last_quarter(train), (config.seed,), ()
    )
    chosen = chosen_folder(out / "adapted") / f"seed-{config.seed}"
    own = export.Export(
        stage=str(chosen),
        student=str(out / "start"),
        out=str(out / "hand"),
        onnx=student.config.head == "integral" and find_spec("onnx") is not None,
        calibration=student.calibration,
    )
    export.run(own)
    for name in (FINDER_FILE, PRESENCE_FILE):
        if (weights / name).exists():
            shutil.copyfile(weights / name, out / "hand" / name)
    return {
        "held_out_frames": len(packed) - train,
        "untouched_mm": before,
        "adapted_mm": after,
    }


def write_start(student: HandStudent, folder: Path) -> None:
    """The student as a source run that target's stages can begin from."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / "theta_0.safetensors", student.net)
    net = net_of(student)
    write_json(folder / "config.json", {"modality": "rgb", "net": asdict(net)})


def net_of(student: HandStudent) -> NetConfig:
    """The network of a student, trained as rendered hands' are."""
    return replace(student.config, heatmap_weight=SLIM_NET.heatmap_weight)


def stage_of(config: Adapt, out: Path, train: int, count: int) -> target.Target:
    """Settings of the training on the first `train` of `count` frames, scored on the others."""
    return target.Target(
        student=str(out / "start"),
        source=str(out / "rendered"),
        start=str(out / "start/theta_0.safetensors"),
        scale="set",
        test_time_rotations_deg=(0.0,),
        target=target.TargetData(
            data=config.data,
            test=config.data,
            frames=(0, train),
            validation=(train, count),
            alongside=str(out / "rendered"),
        ),
        optim=OptimConfig(
            config.epochs, config.batch, config.lr, "cosine", config.seed, config.precision
        ),
        augmentation=TARGET_AUGMENTATION,
    )
