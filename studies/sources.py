"""How much of a target's table is the source's chance, and what do several sources give together?

    python -m studies.sources --base runs/demo --out runs/sources

The source stages of a finished run are trained anew from other seeds (theta_0 and order), and once
from its own theta_0 on other renderings; the priors of the two are merged.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

from cmkg.families import MERGES, merged
from cmkg.hands.experiments.main import (
    Experiment,
    read_experiment,
    source_stages,
)
from cmkg.hands.experiments.rows import Folders, Row, run_stage, select_rows
from cmkg.hands.stages import distill, render
from cmkg.hands.stages.settings import Flat
from cmkg.prior import Prior
from cmkg.runtime.checks import expect_at_least_one, expect_positive
from cmkg.runtime.distributed import on_first_rank
from cmkg.runtime.progress import say
from cmkg.runtime.runs import Run, replace_settings

from .base import (
    TargetSets,
    Training,
    main,
    open_target,
    scenes_like,
    train_table,
    write_cells,
)
from .controls import control_rows
from .graded import ROWS

OTHER_DATA = 50  # added to the source's seed for other renderings


@dataclass(frozen=True)
class Sources:
    """Settings of the study of sources."""

    base: str = "runs/demo"
    """Folder of a finished `cmkg run demo`: its data, and the first source."""
    out: str = "runs/sources"
    source_seeds: tuple[int, ...] = (1, 2)
    """More sources: other theta_0, other order."""
    epochs: int = 10
    """Of each training on the target."""
    rows: tuple[str, ...] = ROWS
    training: Annotated[Training, Flat] = field(default_factory=Training)

    def __post_init__(self) -> None:
        expect_positive(self, "epochs")
        expect_at_least_one(self, "rows")


def run(config: Sources) -> None:
    """Trains the sources, their rows, and writes the table over them."""
    out, base = Path(config.out), Path(config.base)
    experiment = read_experiment(base)
    select_rows(control_rows(base, out), config.rows, "--rows")
    with Run(out, config, "sources").claim():
        sets = open_target("rendered", "", out, experiment)
        homes = {"source-0": base}
        for seed in config.source_seeds:
            home = out / f"source-{seed}/stages"
            homes[f"source-{seed}"] = train_source(experiment, base, home, seed)
        for name, home in homes.items():
            rows = select_rows(control_rows(home, out), config.rows, "--rows")
            train_cell(config, experiment, out / name, rows, sets, home)
        rows = several_rows(experiment, base, out / "several/stages")
        train_cell(config, experiment, out / "several", rows, sets, base)
        write_cells(out, [*homes, "several"])


def train_cell(
    config: Sources,
    experiment: Experiment,
    cell: Path,
    rows: list[Row],
    sets: TargetSets,
    home: Path,
) -> None:
    """Trains the rows of one source, whose stages lie in `home`."""
    folders = Folders.of(sets.data, home, sets.data / "source")
    facts = {"target": cell.name, "base": home.name}
    train_table(experiment, config.training, config.epochs, rows, cell, folders, sets.blocks, facts)


def train_source(experiment: Experiment, base: Path, home: Path, seed: int) -> Path:
    """Teacher, student, its continuation and the distilled one from another seed.

    On the same pictures; returns their folder.
    """
    anew = replace(experiment, seeds=(seed,), wide_count=0)
    data, test = str(base / "data/source"), str(base / "data/source-test")
    for name, stage in source_stages(anew, home).items():
        say(f"{home.parent.name}: {name}")
        run_stage(replace_settings(stage, data=data, test=test))
    return home


def several_rows(experiment: Experiment, base: Path, home: Path) -> list[Row]:
    """Rows with two sources' priors merged: the same theta_0 and teacher, other renderings."""
    scene = replace(
        scenes_like(experiment, experiment.seeds[0] + OTHER_DATA), views_deg=experiment.views_deg
    )
    render.run(render.Render(str(home / "data"), experiment.source_count, scene=scene))
    stages = source_stages(experiment, base)
    student, second_half = stages["student"], stages["distill"]
    assert isinstance(second_half, distill.Distill)
    data = str(home / "data")
    say("several: student")
    run_stage(replace_settings(student, data=data, out=str(home / "student")))
    say("several: distill")
    distill.run(
        replace_settings(
            second_half,
            data=data,
            out=str(home / "distill"),
            student=str(home / "student"),
            exponents=(2,),
        )
    )
    path = "distill/prior_p2.safetensors"
    priors = [Prior.load(folder / path) for folder in (base, home)]
    other = {"prior": str(home / path)}
    rows = [Row("prior-other", "prior, p = 2, of the other source", other, tuned=True)]
    for how in MERGES:
        merged_path = home / f"merged_{how}.safetensors"
        if not merged_path.exists():
            on_first_rank(partial(merged(priors, how).save, merged_path))
        label = f"priors of two sources, merged by {how}"
        rows.append(Row(f"merged-{how}", label, {"prior": str(merged_path)}, tuned=True))
    return rows


if __name__ == "__main__":
    main(run, Sources)
