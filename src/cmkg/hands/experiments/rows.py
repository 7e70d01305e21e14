"""The stages of an experiment, and the rows of a target table: tuning, then every seed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ...errors import Diverged, InputError
from ...prior.prior import Prior
from ...runtime.files import PathLike, write_sealed_json
from ...runtime.progress import note
from ..commands import target
from ..commands.target import Alongside, Regulariser, Target, TargetData
from ..datasets.packed.labelled_set import FrameRange

DIVERGED_MM = 1e9  # the error assigned to a try whose training diverged
SHARE_OF_P1 = 0.1  # at these strengths |theta| pulls about ten times harder than theta^2


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a target table: its differences from the settings that all rows share.

    name: of its folder. start, regulariser, alongside, scale: see commands.target.Target. epochs,
    lr: None means the shared value. tuned: sigma is chosen on the validation block. stops: numbers
    of epochs, one of which is chosen there; 0 leaves the start unchanged. home: the run that has
    already trained the row.
    """

    name: str
    label: str
    start: str = ""
    regulariser: Regulariser = field(default_factory=Regulariser)
    alongside: Alongside = field(default_factory=Alongside)
    scale: Literal["frame", "set"] = "frame"
    epochs: int | None = None
    lr: float | None = None
    tuned: bool = False
    is_control: bool = False
    home: str = ""
    stops: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        """The label, with the word "control" for controls."""
        return f"control: {self.label}" if self.is_control else self.label

    @property
    def files(self) -> list[str]:
        """The weights and priors that the row reads."""
        regulariser = self.regulariser
        return [file for file in (self.start, regulariser.centre, regulariser.prior) if file]

    def applied_to(self, shared: Target) -> Target:
        """The settings that all rows share, overridden by the row's own."""
        optim = shared.optim
        if self.epochs is not None:
            optim = replace(optim, epochs=self.epochs)
        if self.lr is not None:
            optim = replace(optim, lr=self.lr)
        return replace(
            shared,
            start=self.start,
            regulariser=self.regulariser,
            joined=self.alongside,
            scale=self.scale,
            optim=optim,
        )

    def summary(self) -> dict[str, Any]:
        """The row's data for a report, as plain JSON."""
        facts = {"name": self.name, "label": self.title}
        return facts | {"home": self.home} if self.home else facts


def by_name(rows: list[Row]) -> dict[str, Row]:
    """{name: row}, in the table's order."""
    return {row.name: row for row in rows}


class Blocks(NamedTuple):
    """The target frames used for fitting and for validation while sigma is chosen."""

    fit: FrameRange
    validation: FrameRange

    @classmethod
    def last_quarter(cls, count: int) -> Blocks:
        """Uses the last quarter of `count` frames for validation."""
        return cls((0, count * 3 // 4), (count * 3 // 4, count))


@dataclass(frozen=True)
class Folders:
    """The folders of a target's packed sets, of the source student and of its packed set."""

    data: str
    test: str
    student: str
    source: str

    @classmethod
    def of(cls, target_data: PathLike, source_run: PathLike, source: PathLike = "") -> Folders:
        """The folders, from one folder with the target's sets and one with a source run's stages.

        source: the student's packed training set; empty means that of the source run.
        """
        data, run = Path(target_data), Path(source_run)
        return cls(
            data=str(data / "target"),
            test=str(data / "target-test"),
            student=str(run / "student"),
            source=str(source or run / "data/source"),
        )


def train_row(
    shared: Target,
    row: Row,
    home: Path,
    blocks: Blocks,
    seeds: tuple[int, ...],
    tries: tuple[float, ...],
) -> list[float]:
    """Tunes sigma or the epochs on the validation block (first seed), then trains every seed.

    If the chosen value diverges on the whole training split, the next best one is used.

    Args:
        shared: settings that all rows share.
        row: the row to train.
        home: the row's folder.
        blocks: the frames for tuning.
        seeds: of the target's training.
        tries: strengths; p = 1 tries a tenth of each.

    Returns:
        The EPE of each seed, mm.

    Raises:
        Diverged: training diverged at every strength.
    """
    stage = row.applied_to(shared)
    if not row.stops and not row.tuned:
        return train_seeds(stage, home, seeds)
    setting: str
    values: list[float]
    if row.stops:
        setting, set_value, values = "epochs", _with_epochs, list(row.stops)
    else:
        setting, set_value = "sigma", _with_sigma
        values = [share_of(row.regulariser.prior) * strength for strength in tries]
    data = replace(stage.target, frames=blocks.fit, validation=blocks.validation)
    trial = replace(stage, target=data)
    errors = {}
    for value in values:
        out = str(home / f"try-{value:g}")
        errors[value] = validation_error(replace(set_value(trial, value), out=out))
    for best in sorted(errors, key=lambda value: errors[value]):
        facts = {
            "setting": setting,
            "validation_epe_mm": {f"{value:g}": error for value, error in errors.items()},
            "chosen": best,
            "at_the_edge": setting == "sigma" and best in (min(errors), max(errors)),
        }
        write_sealed_json(home / "tried.json", facts)
        try:
            return train_seeds(set_value(stage, best), home / f"{setting}-{best:g}", seeds)
        except Diverged as error:
            note(f"{home}: diverged ({error})")
    raise Diverged(f"{home}: training diverged at every strength of {tries}; give smaller --tries")


def share_of(prior: str) -> float:
    """The factor applied to each strength to try, for a prior's file or for none."""
    return SHARE_OF_P1 if prior and Prior.load(prior).p == 1 else 1.0


def _with_epochs(stage: Target, value: float) -> Target:
    return replace(stage, optim=replace(stage.optim, epochs=int(value)))


def _with_sigma(stage: Target, value: float) -> Target:
    return replace(stage, regulariser=replace(stage.regulariser, sigma=value))


def train_seeds(stage: Target, home: Path, seeds: tuple[int, ...]) -> list[float]:
    """Trains with every seed; returns the EPE of each, in mm."""
    errors = []
    for seed in seeds:
        optim = replace(stage.optim, seed=seed)
        settings = replace(stage, optim=optim, out=str(home / f"seed-{seed}"))
        errors.append(float(target.run(settings)["epe_mm"]))
    return errors


def validation_error(trial: Target) -> float:
    """Validation EPE of one try, mm.

    A strength at which training diverges gets a huge error; it does not end the experiment.
    """
    try:
        error_mm = float(target.run(trial)["epe_mm"])
    except Diverged as error:
        note(f"{trial.out}: diverged ({error})")
        return DIVERGED_MM
    return error_mm if math.isfinite(error_mm) else DIVERGED_MM


def with_folders(stage: Target, folders: Folders) -> Target:
    """The stage with a target's sets and a source's student."""
    return replace(
        stage,
        student=folders.student,
        source=folders.source,
        target=TargetData(folders.data, folders.test),
    )


def select_rows(known: list[Row], names: tuple[str, ...], flag: str) -> list[Row]:
    """The rows with these names, in the table's order; all rows if no names are given.

    Raises:
        InputError: a name is unknown.
    """
    there = by_name(known)
    for name in names:
        if name not in there:
            raise InputError(f"{flag} {name}: no such row; expected some of {', '.join(there)}")
    return [row for row in known if not names or row.name in names]
