"""The stages of an experiment, and the rows of a target table: tuning, then every seed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import Diverged, InputError
from ...prior import Prior
from ...runtime.files import PathLike, write_sealed_json
from ...runtime.progress import note
from ...runtime.settings import replace_settings
from ..stages import distill, evaluate, source, target
from ..stages.fitting import Frames

DIVERGED_MM = 1e9  # what a diverged training counts as among the tries
SHARE_OF_P1 = 0.1  # |theta| pulls some ten times harder than theta^2 there


@dataclass(frozen=True)
class Row:
    """A line of a target table.

    name: of its folder. changes: settings of target.Target, by their names on the command line.
    tuned: sigma is chosen on the validation block. stops: epochs, of which one is chosen there; 0
    leaves the start as it is. home: the run that has trained it already.
    """

    name: str
    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    tuned: bool = False
    is_control: bool = False
    home: str = ""
    stops: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        """The label, with the word "control" where it is one."""
        return f"control: {self.label}" if self.is_control else self.label

    def summary(self) -> dict[str, Any]:
        """What a report needs, as plain JSON."""
        facts = {"name": self.name, "label": self.title}
        return facts | {"home": self.home} if self.home else facts


def by_name(rows: list[Row]) -> dict[str, Row]:
    """{name: row}, in the table's order."""
    return {row.name: row for row in rows}


class Blocks(NamedTuple):
    """The frames of a target to fit and to validate on while sigma is chosen."""

    fit: Frames
    validation: Frames

    @classmethod
    def last_quarter(cls, count: int) -> Blocks:
        """The last quarter of `count` frames validates."""
        return cls((0, count * 3 // 4), (count * 3 // 4, count))


@dataclass(frozen=True)
class Folders:
    """Where a target's packed sets lie, and the source student with its own set."""

    data: str
    test: str
    student: str
    source: str

    @classmethod
    def of(cls, target_data: PathLike, source_run: PathLike, source: PathLike = "") -> Folders:
        """A target's sets in one folder, and the stages of a source run.

        source: the packed set that the student saw; empty is that of the source run.
        """
        data, run = Path(target_data), Path(source_run)
        return cls(
            data=str(data / "target"),
            test=str(data / "target-test"),
            student=str(run / "student"),
            source=str(source or run / "data/source"),
        )


SourceStage = source.Source | distill.Distill
Stage = SourceStage | target.Target | evaluate.Evaluate


def run_stage(stage: Stage) -> dict[str, Any]:
    """Runs a stage, or reads its result where it is finished."""
    if isinstance(stage, evaluate.Evaluate):
        return evaluate.run(stage)
    if isinstance(stage, target.Target):
        return target.run(stage)
    return distill.run(stage) if isinstance(stage, distill.Distill) else source.run(stage)


def train_row(
    stage: target.Target,
    row: Row,
    home: Path,
    blocks: Blocks,
    seeds: tuple[int, ...],
    tries: tuple[float, ...],
) -> list[float]:
    """Tunes sigma or the epochs on the validation block (first seed), then trains every seed.

    Should the chosen value diverge on the whole training split, the next best is taken.

    Args:
        stage: settings that all rows share; the row's changes are applied to them.
        row: which one.
        home: the row's folder.
        blocks: the frames for tuning.
        seeds: of the target's training.
        tries: strengths; p = 1 tries a tenth of each.

    Returns:
        The EPE of each seed, mm.

    Raises:
        Diverged: training diverged at every strength.
    """
    stage = replace_settings(stage, **row.changes)
    setting = "epochs" if row.stops else "sigma"
    if setting == "sigma" and not row.tuned:
        return train_seeds(stage, home, seeds)
    file = stage.regulariser.prior
    share = SHARE_OF_P1 if file and Prior.load(file).p == 1 else 1.0
    values = row.stops or [share * one for one in tries]
    trial = replace_settings(stage, frames=blocks.fit, validation=blocks.validation)
    tried = {}
    for value in values:
        own: dict[str, Any] = {setting: value, "out": str(home / f"try-{value:g}")}
        tried[value] = validation_error(replace_settings(trial, **own))
    for best in sorted(tried, key=lambda value: tried[value]):
        facts = {
            "setting": setting,
            "validation_epe_mm": {f"{value:g}": error for value, error in tried.items()},
            "chosen": best,
            "at_the_edge": setting == "sigma" and best in (min(tried), max(tried)),
        }
        write_sealed_json(home / "tried.json", facts)
        own = {setting: best}
        try:
            return train_seeds(replace_settings(stage, **own), home / f"{setting}-{best:g}", seeds)
        except Diverged as error:
            note(f"{home}: diverged ({error})")
    raise Diverged(f"{home}: training diverged at every strength of {tries}; give smaller --tries")


def train_seeds(stage: target.Target, home: Path, seeds: tuple[int, ...]) -> list[float]:
    """Trains with every seed; returns each one's EPE, mm."""
    errors = []
    for seed in seeds:
        out = str(home / f"seed-{seed}")
        errors.append(float(target.run(replace_settings(stage, seed=seed, out=out))["epe_mm"]))
    return errors


def validation_error(trial: target.Target) -> float:
    """Validation EPE of one try, mm.

    A strength at which training diverges loses, it does not end the experiment.
    """
    try:
        found = float(target.run(trial)["epe_mm"])
    except Diverged as error:
        note(f"{trial.out}: diverged ({error})")
        return DIVERGED_MM
    return found if math.isfinite(found) else DIVERGED_MM


def select_rows(known: list[Row], names: tuple[str, ...], flag: str) -> list[Row]:
    """The rows of these names, in the table's order; all where there are no names.

    Raises:
        InputError: one is not known.
    """
    there = by_name(known)
    for name in names:
        if name not in there:
            raise InputError(f"{flag} {name}: no such row; expected some of {', '.join(there)}")
    return [row for row in known if not names or row.name in names]
