"""What does each ingredient of the recipe bring beside plain fine-tuning?

    python -m studies.ingredients --base runs/demo --out runs/ingredients --epochs 5

On the source stages of a finished `cmkg run`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from cmkg.hands.datasets.packed import Packed
from cmkg.hands.experiments.main import (
    Experiment,
    read_experiment,
    recipe_of,
    source_stages,
)
from cmkg.hands.experiments.rows import Folders, Row, select_rows
from cmkg.hands.rendering.lookalikes import LookAlikeConfig
from cmkg.hands.stages import draw_lookalikes, source
from cmkg.hands.stages.settings import Flat
from cmkg.runtime.checks import expect_positive
from cmkg.runtime.runs import Run
from cmkg.runtime.settings import replace_settings

from .base import Training, main, open_target, train_table, write_table

LONG_LR = 1e-3
WITH_LOOKALIKES = {"long-likes", "long-distilled"}


@dataclass(frozen=True)
class Ingredients:
    """Settings of the ingredients' table."""

    base: str = "runs/demo"
    """Folder of a finished `cmkg run demo` or `real`."""
    out: str = "runs/ingredients"
    target: Literal["rendered", "folder"] = "rendered"
    real_hands: str = ""
    """Folder with the real photographs."""
    epochs: int = 10
    """Of each training on the target."""
    long_epochs: int = 30
    """Of the longer trainings, at LONG_LR."""
    lookalikes: int = 4000
    """Rendered look-alikes of the target, for the rows that use them."""
    only: tuple[str, ...] = ()
    """Names of the rows to run; empty = all."""
    training: Annotated[Training, Flat] = field(default_factory=Training)

    def __post_init__(self) -> None:
        expect_positive(self, "epochs", "long_epochs", "lookalikes")


def run(config: Ingredients) -> None:
    """Makes what the rows need, trains them, and writes the table."""
    out, base = Path(config.out), Path(config.base)
    experiment = read_experiment(base)
    rows = select_rows(ingredient_rows(config, base, out, experiment), config.only, "--only")
    names = {row.name for row in rows}
    with Run(out, config, "ingredients").claim():
        sets = open_target(config.target, config.real_hands, out, experiment)
        if names & WITH_LOOKALIKES:
            look = LookAlikeConfig(
                config.lookalikes, views_deg=experiment.views_deg, seed=experiment.seeds[0]
            )
            data, likes = str(sets.data / "target"), str(out / "data/lookalikes")
            draw_lookalikes.run(draw_lookalikes.DrawLookAlikes(data, likes, look=look))
        if "longer-source" in names:
            train_source_on(base, out, experiment, len(Packed(sets.data / "target")))
        folders = Folders.of(sets.data, base)
        facts = {"target": config.target, "base": base.name}
        train_table(
            experiment, config.training, config.epochs, rows, out, folders, sets.blocks, facts
        )
        write_table(out)


def ingredient_rows(
    config: Ingredients, base: Path, out: Path, experiment: Experiment
) -> list[Row]:
    """The recipe of `cmkg run`, one ingredient at a time."""
    student = {"start": str(base / "all/student.safetensors")}
    distilled = {"start": str(base / "depth/distilled.safetensors")}
    scale = {"scale": "set"}
    long = {"epochs": config.long_epochs, "lr": LONG_LR}
    beside_source = {"alongside": str(base / "data/source")}
    beside_likes = {"alongside": str(out / "data/lookalikes")}
    long_source: dict[str, Any] = {
        "start": str(out / "source-for-longer/student.safetensors"),
        **scale,
    }
    has_wide = experiment.wide_count > 0
    first = "the wide rendering first and" if has_wide else "the source"
    own = experiment.seeds == config.training.seeds  # the run has trained its recipe already
    rows = [
        Row("fine-tune-student", "fine-tuned source student", student),
        Row("scale", "+ one person's scale", student | scale),
        Row("long", "+ for longer", student | scale | long),
        Row(
            "long-source",
            "+ for longer, the source alongside",
            student | scale | beside_source | long,
        ),
        Row(
            "long-likes",
            "+ for longer, look-alikes alongside",
            student | scale | beside_likes | long,
        ),
        Row(
            "long-distilled",
            "+ for longer, look-alikes alongside, from the distilled student",
            distilled | scale | beside_likes | long,
        ),
        Row("long-frame", "for longer alone, each frame's scale", student | long),
    ]
    if has_wide:
        wide = {"start": str(base / "wide/student.safetensors")}
        label = "+ one person's scale, the student of the wide rendering"
        rows.append(Row("wide", label, wide | scale))
    return [
        *rows,
        Row(
            "recipe",
            f"the recipe: one person's scale, {first} alongside, for much longer",
            recipe_of(experiment, base),
            home=str(base) if own else "",
        ),
        Row(
            "longer-source",
            "its steps on the source alone, then fine-tuned with one person's scale",
            long_source,
            is_control=True,
        ),
    ]


def train_source_on(base: Path, out: Path, experiment: Experiment, frames: int) -> None:
    """The recipe's control: the source student, trained on its source for as many steps.

    Its pictures are augmented as the recipe augments those alongside.
    """
    expert = experiment.expert
    steps = expert.long_epochs * (frames // expert.batch)
    steps += expert.wide_epochs * (experiment.wide_count // expert.batch)
    stage = source_stages(experiment, base)["all"]
    assert isinstance(stage, source.Source)
    source.run(
        replace_settings(
            stage,
            start=str(base / "all/student.safetensors"),
            out=str(out / "source-for-longer"),
            lr=expert.long_lr,
            augmentation=experiment.augmentation,
            epochs=max(1, round(steps / (experiment.source_count // expert.batch))),
        )
    )


if __name__ == "__main__":
    main(run, Ingredients)
