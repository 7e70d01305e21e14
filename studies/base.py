"""What the studies share: the run that they are based on, its target, and the rows of a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from cmkg.cli import end_in_one_sentence
from cmkg.errors import Diverged
from cmkg.hands.datasets.packed import Packed
from cmkg.hands.datasets.sample import pixels_to_store
from cmkg.hands.experiments.main import (
    SEQUENCES,
    TARGET_AUGMENTATION,
    TARGET_SEED,
    Experiment,
    draw_sequences,
    pack_folder,
    rate_of,
    target_stage,
    with_folders,
)
from cmkg.hands.experiments.rows import Blocks, Folders, Row, train_row
from cmkg.hands.network.augment import Augmentation
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.stages.render import Render
from cmkg.runtime.checks import expect_at_least_one, expect_different_seeds
from cmkg.runtime.distributed import Precision, on_first_rank
from cmkg.runtime.files import write_json
from cmkg.runtime.progress import say
from cmkg.runtime.settings import replace_settings

from . import tables


def main(run: Callable[[Any], object], settings: type) -> None:
    """A study's program: its settings from the command line, its errors as sentences."""
    end_in_one_sentence(lambda: run(tyro.cli(settings)))


# ---- the run that a study is based on ------------------------------------------------------------
def scenes_like(base: Experiment, seed: int) -> SceneConfig:
    """Scenes as the run's, of another seed, seen from all sides."""
    return SceneConfig(px=pixels_to_store(base.net.px), backgrounds=base.backgrounds, seed=seed)


# ---- targets -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class TargetSets:
    """Folder of a target's packed sets, and the blocks of frames for tuning."""

    data: Path
    blocks: Blocks


def open_target(target: str, real_hands: str, out: Path, base: Experiment) -> TargetSets:
    """The target's sets: the run's own where it has them, else made in `out`.

    Args:
        target: "rendered" or "folder".
        real_hands: the folder with the photographs.
        out: the study's folder.
        base: the run's settings.
    """
    frames, run = base.target_frames, Path(base.out)
    if target == base.target == "rendered":
        return TargetSets(run / "data", Blocks.last_quarter(SEQUENCES * frames))
    if target == "rendered":
        stage = Render(scene=scenes_like(base, base.seeds[0] + TARGET_SEED))
        return TargetSets(out / "data", draw_sequences(stage, out / "data", frames, frames))
    px = Packed(run / "data/source").stored_px
    return TargetSets(out / "data", pack_folder(real_hands, out / "data", px))


# ---- tables --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Training:
    """How a study trains on its target."""

    seeds: tuple[int, ...] = (0, 1, 2)
    tries: tuple[float, ...] = (1.0, 10.0, 100.0)
    """Strengths tried for every tuned row on the validation block; p = 1 tries a tenth of each."""
    precision: Precision = "auto"
    augmentation: Augmentation = TARGET_AUGMENTATION

    def __post_init__(self) -> None:
        expect_at_least_one(self, "tries")
        expect_different_seeds(self.seeds)


def train_table(
    base: Experiment,
    training: Training,
    epochs: int,
    rows: list[Row],
    out: Path,
    folders: Folders,
    blocks: Blocks,
    facts: dict[str, Any],
) -> None:
    """Trains every row in the folder `out`, and writes what its table is made of.

    Args:
        base: settings of the run that it is based on.
        training, epochs: what the study changes of them.
        rows: of the table; those with a home are read from there.
        out: the table's folder.
        folders, blocks: the target.
        facts: what the table is called, and of which run.
    """
    expert = replace(base.expert, target_epochs=epochs, precision=training.precision)
    shared = replace(base, expert=expert, augmentation=training.augmentation)
    for number, row in enumerate(rows, 1):
        say(f"{out.name}: row {number} of {len(rows)}: {row.title}")
        if row.home:
            continue
        stage = replace_settings(target_stage(shared), seed=training.seeds[0])
        stage = replace_settings(with_folders(stage, folders), lr=rate_of(shared, row))
        train_or_note(stage, row, out / "target" / row.name, blocks, training)
    held = {
        "rows": [row.summary() for row in rows],
        "epochs": epochs,
        "seeds": list(training.seeds),
        "tries": list(training.tries),
    }
    write_json(out / "study_rows.json", held | facts)


def train_or_note(stage: Any, row: Row, home: Path, blocks: Blocks, training: Training) -> None:
    """Trains a row; one that diverges at every strength is noted, and the study goes on."""
    note = home / "diverged.json"
    if note.exists():
        return
    try:
        errors = train_row(stage, row, home, blocks, training.seeds, training.tries)
    except Diverged as error:
        write_json(note, {"diverged": str(error)})
    else:
        say(f"{row.title}: EPE {sum(errors) / len(errors):.2f} mm")


def write_table(out: Path) -> None:
    """study.md, study.svg and study.json of a study's folder."""
    on_first_rank(lambda: tables.write_study(out))
    say(f"{out}/study.md, study.svg and study.json are written")
