"""`cmkg run graded`: when does a prior help? Targets of graded size and of graded distance from the
source (Table 3's question).

Each target is a small study of its own, with the same rows and the same number of steps, on a
finished run's source.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .. import engine
from ..errors import InputError
from ..hands.augment import Augmentation
from . import experiment, render, study
from .common import at_least_one, positive, seeds_from_zero

# of few, one background decides: from theta_0, 27 mm on three sequences were 117 on the fourth
SEQUENCES, TESTS = 20, 8


def whole_sequences(flag, frames):
    """Refuses a number of frames that does not fill SEQUENCES sequences."""
    if frames < SEQUENCES or frames % SEQUENCES:
        raise InputError(
            f"{flag}: expected multiples of {SEQUENCES}, frames of as many sequences, got {frames}"
        )


@dataclass(frozen=True)
class Graded:
    base: str = "runs/demo"
    """Folder of a finished `cmkg run`: its source stages."""
    out: str = "runs/graded"
    sizes: tuple[int, ...] = (100, 1000, 10_000)
    """Training frames of the STB-like targets: one person, one camera, SEQUENCES sequences."""
    shifts: tuple[Literal["source", "views"], ...] = ("source", "views")
    """More targets, of 500 frames: "source", drawn as the source is, by another seed; "views",
    seen from all sides."""
    test_frames: int = 240
    steps: int = 200
    """Of each training on a target; at least one epoch."""
    seeds: tuple[int, ...] = (0, 1, 2)
    tries: tuple[float, ...] = (1.0, 10.0, 100.0)
    rows: tuple[str, ...] = ("none", "l2", "prior-p2", "fine-tune-student", "fine-tune-distilled")
    precision: engine.Precision = "auto"
    augmentation: Augmentation = experiment.TARGET_AUGMENTATION

    def __post_init__(self):
        positive(self, "steps")
        at_least_one(self, "tries", "rows")
        seeds_from_zero(self.seeds)
        if self.test_frames < TESTS or self.test_frames % TESTS:
            raise InputError(
                f"--test-frames: expected a multiple of {TESTS}, frames of as many sequences, "
                f"got {self.test_frames}"
            )
        for size in self.sizes:
            whole_sequences("--sizes", size)


PRESETS = {
    "graded": (
        "Targets of graded size and of graded distance from a finished run's source.",
        Graded(),
    )
}
SHIFT_FRAMES = 500
TARGET_SEED = 100  # its scenes are none of the source's
VIEWS_DEG = {"source": 90.0, "views": 180.0}


def run(config: Graded):
    out, base = Path(config.out), Path(config.base)
    engine.Run(out, config)
    settings = experiment.Experiment(**study.saved(base))
    cells = {f"size-{n}": n for n in config.sizes} | {
        f"shift-{s}": SHIFT_FRAMES for s in config.shifts
    }
    for name, count in cells.items():
        engine.say(f"target {name}")
        data = draw_target(settings, out / "data" / name, name, count, config.test_frames)
        folders = {
            "data": str(data / "target"),
            "test": str(data / "target-test"),
            "student": str(base / "student"),
            "source": str(base / "data/source"),
        }
        epochs = epochs_of(config.steps, count, settings.batch)
        blocks = experiment.tuning_blocks(count)
        known = study.rows(base, out)
        study.run_rows(
            study.shared(settings, config, out / name, epochs),
            out / name,
            study.chosen(known, config.rows, "--rows"),
            blocks,
            folders,
            {"target": name, "base": base.name, "frames": count},
        )
    study.write_cells(out, list(cells))


def epochs_of(steps, count, batch):
    """The epochs that are nearest to so many steps."""
    return max(1, round(steps / max(count // batch, 1)))


def draw_target(settings, data, name, count, test_frames):
    """Renders one target's training and test sets, unless they are there."""
    plain = render.Render(
        px=experiment.stored_px(settings.px), backgrounds=settings.backgrounds, seed=TARGET_SEED
    )
    if name.startswith("size-"):
        experiment.draw_sequences(
            plain, data, count // SEQUENCES, test_frames // TESTS, SEQUENCES, TESTS
        )
    else:
        drawn = replace(plain, views_deg=VIEWS_DEG[name.removeprefix("shift-")])
        render.run(replace(drawn, count=count, out=str(data / "target")))
        render.run(
            replace(drawn, count=test_frames, first=10_000_000, out=str(data / "target-test"))
        )
    return data
