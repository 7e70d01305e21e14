"""When does a prior help? Targets of graded size and of graded distance from the source.

    python -m studies.graded --base runs/demo --out runs/graded

Table 3's question. Each target is a small study of its own, with the same rows and the same number
of steps, on a finished run's source.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cmkg.errors import InputError
from cmkg.hands.experiments.main import (
    FIRST_TEST_SCENE,
    Experiment,
    draw_sequences,
    read_experiment,
)
from cmkg.hands.experiments.rows import Blocks, Folders, select_rows
from cmkg.hands.stages import render
from cmkg.hands.stages.settings import Flat
from cmkg.runtime.checks import expect_at_least_one, expect_positive
from cmkg.runtime.progress import say
from cmkg.runtime.runs import Run, replace_settings

from .base import Training, main, scenes_like, train_table, write_cells
from .controls import control_rows

# Of few sequences one background decides: from theta_0, 27 mm on three were 117 on the fourth.
SEQUENCES, TEST_SEQUENCES = 20, 8
SHIFT_FRAMES = 500
GRADED_SEED = 100  # its scenes are none of the source's
ALL_VIEWS_DEG = 180.0
ROWS = ("none", "l2", "prior-p2", "fine-tune-student", "fine-tune-distilled")


def expect_whole_sequences(flag: str, frames: int) -> None:
    """Refuses a number of frames that does not fill SEQUENCES sequences."""
    if frames < SEQUENCES or frames % SEQUENCES:
        raise InputError(
            f"{flag}: expected multiples of {SEQUENCES}, frames of as many sequences, got {frames}"
        )


@dataclass(frozen=True)
class Graded:
    """Settings of the graded targets."""

    base: str = "runs/demo"
    """Folder of a finished `cmkg run`: its source stages."""
    out: str = "runs/graded"
    sizes: tuple[int, ...] = (100, 1000, 10_000)
    """Training frames of the STB-like targets: one person, one camera, SEQUENCES sequences."""
    shifts: tuple[Literal["source", "views"], ...] = ("source", "views")
    """More targets, of 500 frames: "source", drawn as the source is, by another seed; "views", seen
    from all sides."""
    test_frames: int = 240
    steps: int = 200
    """Of each training on a target; at least one epoch."""
    rows: tuple[str, ...] = ROWS
    training: Annotated[Training, Flat] = field(default_factory=Training)

    def __post_init__(self) -> None:
        expect_positive(self, "steps")
        expect_at_least_one(self, "rows")
        if self.test_frames < TEST_SEQUENCES or self.test_frames % TEST_SEQUENCES:
            raise InputError(
                f"--test-frames: expected a multiple of {TEST_SEQUENCES}, frames of as many "
                f"sequences, got {self.test_frames}"
            )
        for size in self.sizes:
            expect_whole_sequences("--sizes", size)


def run(config: Graded) -> None:
    """Draws every target, trains its rows, and writes the table over them."""
    out, base = Path(config.out), Path(config.base)
    experiment = read_experiment(base)
    rows = select_rows(control_rows(base, out), config.rows, "--rows")
    cells = {f"size-{count}": count for count in config.sizes}
    cells |= {f"shift-{shift}": SHIFT_FRAMES for shift in config.shifts}
    with Run(out, config, "graded").claim():
        for name, count in cells.items():
            say(f"target {name}")
            data = draw_target(experiment, out / "data" / name, name, count, config.test_frames)
            epochs = epochs_of(config.steps, count, experiment.expert.batch)
            blocks, folders = Blocks.last_quarter(count), Folders.of(data, base)
            facts = {"target": name, "base": base.name, "frames": count}
            train_table(
                experiment, config.training, epochs, rows, out / name, folders, blocks, facts
            )
        write_cells(out, list(cells))


def epochs_of(steps: int, count: int, batch: int) -> int:
    """The epochs that are nearest to so many steps."""
    return max(1, round(steps / max(count // batch, 1)))


def draw_target(
    experiment: Experiment, data: Path, name: str, count: int, test_frames: int
) -> Path:
    """Renders one target's training and test sets, unless they are there; returns their folder."""
    plain = render.Render(scene=scenes_like(experiment, GRADED_SEED))
    if name.startswith("size-"):
        frames, tests = count // SEQUENCES, test_frames // TEST_SEQUENCES
        draw_sequences(plain, data, frames, tests, SEQUENCES, TEST_SEQUENCES)
        return data
    views_deg = ALL_VIEWS_DEG if name == "shift-views" else experiment.views_deg
    train = replace_settings(plain, views_deg=views_deg, count=count, out=str(data / "target"))
    test = replace_settings(train, count=test_frames, first=FIRST_TEST_SCENE)
    render.run(train)
    render.run(replace_settings(test, out=str(data / "target-test")))
    return data


if __name__ == "__main__":
    main(run, Graded)
