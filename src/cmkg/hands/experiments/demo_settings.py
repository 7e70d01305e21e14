"""Settings of `cmkg run demo` and `cmkg run real`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from ...errors import InputError
from ...runtime.checks import (
    expect_at_least_one,
    expect_different_seeds,
    expect_from_zero,
    expect_positive,
)
from ...runtime.distributed import Precision
from ...runtime.run_records import expect_shape, read_settings
from ..network.augment import Augmentation
from ..network.loader import expect_unlabelled_share
from ..network.posenet import NetConfig
from ..report.run_page import SHOWN
from ..stages.stage_settings import Flat

# The source has thousands of poses and scenes and needs little augmentation; a small target more.
SOURCE_AUGMENTATION = Augmentation(
    turn_deg=20, shift=0.03, zoom=0.05, colour=0.15, noise=0, erase=0
)


TARGET_AUGMENTATION = Augmentation(
    turn_deg=90, shift=0.04, zoom=0.08, colour=0.25, noise=0.02, erase=0.2
)


MILD_AUGMENTATION = Augmentation(
    turn_deg=20, shift=0.04, zoom=0.08, colour=0.25, noise=0.02, erase=0.2
)


SLIM_NET = NetConfig(width=0.25, head="integral", stem_stride=2, heatmap_weight=1000.0, px=64)


SMALL_NET = NetConfig(
    backbone="resnet10", width=0.25, head="integral", stem_stride=2, heatmap_weight=1000.0, px=48
)


WIDER_NET = NetConfig(width=0.375, head="integral", stem_stride=2, heatmap_weight=1000.0, px=64)


@dataclass(frozen=True)
class Expert:
    """Training of the individual parts."""

    batch: int = 32
    source_epochs: int = 8
    """Epochs of each training on the source, counted over all its pairs; all trainings take the
    same number of steps."""
    target_epochs: int = 10
    """Epochs of the rows that start at theta_0."""
    stops: tuple[int, ...] = (0, 5)
    """Numbers of epochs to try on the validation block, for rows that start at trained weights. 0
    leaves the weights unchanged, so that training on the target is never worse than none."""
    wide_epochs: int = 6
    long_epochs: int = 100
    """Epochs of the recipe, which trains on the target and the rendered hands together."""
    unlabelled: float = 0.75
    """Share of each batch without labels, if there is a teacher."""
    output_weight: float = 10.0
    """Weight of the teacher's outputs relative to L_REG."""
    lr: float = 3e-3
    """Adam's learning rate on the source, with a cosine decay to zero. The paper's constant 2.5e-4
    needs its 200 epochs."""
    target_lr: float = 1e-3
    """Learning rate of the rows that start at theta_0."""
    fine_tune_lr: float = 1e-3
    """Learning rate of the rows that start at trained weights."""
    long_lr: float = 2e-3
    """Learning rate of the recipe."""
    tries: tuple[float, ...] = (10.0, 100.0, 1000.0)
    """Strengths sigma to try on the validation block for every tuned row, in the unit of the loss,
    cm^2."""
    test_time_rotations_deg: tuple[float, ...] = (-30.0, -15.0, 0.0, 15.0, 30.0)
    """On the target, each prediction of every row is the mean over pictures rotated by these
    angles, in degrees; the paper uses (0,)."""
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        expect_positive(
            self,
            "batch",
            "source_epochs",
            "target_epochs",
            "output_weight",
            "wide_epochs",
            "long_epochs",
            "lr",
            "target_lr",
            "fine_tune_lr",
            "long_lr",
        )
        expect_at_least_one(self, "tries", "stops", "test_time_rotations_deg")
        if min(self.stops) < 0:
            raise InputError(f"--stops: expected numbers of epochs from 0, got {self.stops}")
        expect_unlabelled_share(self.unlabelled)


@dataclass(frozen=True)
class Experiment:
    """Settings of one complete run. `demo` and `real` differ only in their defaults."""

    out: str = "runs/demo"
    target: Literal["rendered", "folder"] = "rendered"
    root: str = ""
    """Folder of the target's recordings (docs/recordings.md), with splits train and test."""
    source_count: int = 2400
    """Number of rendered RGB-D training hands; a tenth as many, at most 1,000, are the test set."""
    labels: int = 250
    """Number of the rendered training hands that have labels."""
    with_prior: bool = False
    """Also learn the prior, and train its rows and their controls on the target."""
    target_frames: int = 120
    """Frames in each of the four rendered training sequences; two more sequences are the test."""
    views_deg: float = 90.0
    """Largest angle between palm and camera in the source, in degrees."""
    backgrounds: tuple[str, ...] = ()
    """Folders of background photographs. Empty: those that ship with cmkg, and generated
    clutter."""
    fast: bool = False
    """Do a tenth of the work, in runs/demo-fast: too little for good results."""
    wide_count: int = 0
    """Number of hands of the wide rendering (`cmkg render --wide`) on which the recipe first trains
    the source student; 0 skips this step."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the target's training (order and augmentation). The source is trained once, with the
    first seed."""
    rows: tuple[str, ...] = ()
    """Run only these rows of the target. Empty: all rows."""
    net: Annotated[NetConfig, Flat] = field(default_factory=lambda: SMALL_NET)
    expert: Annotated[Expert, Flat] = field(default_factory=Expert)
    augmentation: Augmentation = field(default_factory=lambda: MILD_AUGMENTATION)
    """Augmentation of the target's training."""

    def __post_init__(self) -> None:
        expect_positive(self, "source_count", "labels", "target_frames")
        expect_from_zero(self, "wide_count")
        expect_different_seeds(self.seeds)
        if self.rows and not set(SHOWN) <= set(self.rows):
            raise InputError(f"--rows: the report compares {' and '.join(SHOWN)}; include them")


def quicken(config: Experiment) -> Experiment:
    """The same in 90 seconds: too short for good results, long enough to exercise every part."""
    return replace(
        config,
        out=f"{config.out}-fast" if config.out == Experiment.out else config.out,
        fast=False,
        source_count=800,
        labels=120,
        target_frames=40,
        seeds=(0,),
        expert=replace(
            config.expert, source_epochs=5, stops=(0, 2), test_time_rotations_deg=(0.0,)
        ),
    )


def read_experiment(folder: Path) -> Experiment:
    """The settings of a run, read from its folder."""
    path = folder / "config.json"
    experiment: Experiment = expect_shape(
        read_settings(path) | {"out": str(folder)}, Experiment, path
    )
    return experiment
