"""Settings and rows of the paper's experiments; docs/paper.md compares each value to the paper's.

A row is a named variant: one training stage and its prerequisites.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal

from ...errors import InputError
from ...runtime.checks import expect_different_seeds, expect_from_zero, expect_positive
from ...runtime.distributed import Precision
from ..commands.target import Regulariser
from ..datasets.freihand import DOMAINS
from ..network.posenet import LossUnit, StemStride
from ..stages.stage_settings import Flat

Family = Literal["r18", "r18-a", "r50", "r50-a"]  # a backbone on RHD, with or without 𝒜
BACKBONES = {"r18": "resnet18", "r50": "resnet50"}


@dataclass(frozen=True)
class Variant:
    """A row of the paper's tables: its stage, and the paper's numbers for it.

    Table 1's RGB numbers appear for both halves: the paper does not say after how many epochs they
    were measured.
    """

    stage: str
    label: str
    paper_epe_mm: float | None = None
    paper_auc: float | None = None


TABLE_1 = [
    Variant("r18/student", "ResNet-18, RGB", 24.68),
    Variant("r18/continued", "ResNet-18, RGB", 24.68),
    Variant("r18/teacher", "ResNet-18, depth", 13.60),
    Variant("r18/act", "ResNet-18, distilled, L_ACT", 23.41),
    Variant("r18/act-att", "ResNet-18, distilled, L_ACT + λ L_ATT", 22.19),
    Variant("r18-a/continued", "ResNet-18 with 𝒜, RGB", 23.07),
    Variant("r18-a/teacher", "ResNet-18 with 𝒜, depth", 12.06),
    Variant("r18-a/act-att", "ResNet-18 with 𝒜, distilled", 20.89),
    Variant("r50-a/continued", "ResNet-50 with 𝒜, RGB", 20.74),
    Variant("r50-a/teacher", "ResNet-50 with 𝒜, depth", 10.78),
    Variant("r50-a/act-att", "ResNet-50 with 𝒜, distilled", 18.06),
]
TARGETS = ("stb", *(f"freihand-{domain}" for domain in DOMAINS))
TABLE_2 = [
    Variant("stb/none", "no regulariser", 15.67, 0.915),
    Variant("stb/l1-1e-4", "ℓ¹, σ = 1e-4", 11.41, 0.972),
    Variant("stb/l1-1e-6", "ℓ¹, σ = 1e-6", 11.82, 0.964),
    Variant("stb/l2-1e-3", "ℓ², σ = 1e-3", 12.28, 0.957),
    Variant("stb/l2-1e-5", "ℓ², σ = 1e-5", 12.02, 0.964),
    Variant("stb/prior-l1", "prior, p = 1", 8.86, 0.985),
    Variant("stb/prior-l2", "prior, p = 2", 8.18, 0.987),
]
TABLE_3_EPE_MM = {
    "freihand-gs": (12.37, 12.28, 12.27),
    "freihand-hom": (14.49, 14.02, 13.82),
    "freihand-sample": (15.80, 14.92, 14.26),
    "freihand-auto": (16.18, 15.16, 14.18),
    "stb": (15.67, 12.02, 8.18),
}
TABLE_3_ROWS = (("none", "no regulariser"), ("l2-1e-5", "ℓ²"), ("prior-l2", "prior"))
TABLE_3 = [
    Variant(f"{data}/{row}", f"{data}, {label}", epe_mm)
    for data, errors in TABLE_3_EPE_MM.items()
    for (row, label), epe_mm in zip(TABLE_3_ROWS, errors, strict=True)
]


# Rows of STB evaluated on unseen hands of 𝒜 (Fig. 6).
ON_SYNTHETIC = [
    Variant("synthetic/none", "trained on STB, no regulariser"),
    Variant("synthetic/prior-l2", "trained on STB, prior"),
]


def _chosen(variants: list[Variant], *stages: str) -> list[Variant]:
    there = {variant.stage: variant for variant in variants}
    return [there[stage] for stage in stages]


_RHD_AND_STB = TABLE_1 + TABLE_2
# The rows of each preset.
ROWS = {
    "table1": TABLE_1,
    "table2": TABLE_2,
    "table3": TABLE_3,
    "figure4": _chosen(
        _RHD_AND_STB,
        "r50-a/continued",
        "r50-a/act-att",
        "r18-a/act-att",
        "stb/none",
        "stb/prior-l2",
    ),
    "figure5": _chosen(TABLE_2, "stb/none", "stb/l2-1e-5", "stb/prior-l1", "stb/prior-l2"),
    "figure6": [
        *_chosen(_RHD_AND_STB, "r18-a/continued", "r18-a/act-att"),
        # Table 3 has no AUC for these.
        *_chosen(TABLE_3, "stb/none", "stb/prior-l2", "freihand-auto/prior-l2"),
        *ON_SYNTHETIC,
    ],
}


@dataclass(frozen=True)
class Epochs:
    """Length of each training stage; the defaults are the paper's values."""

    teacher_epochs: int = 200
    student_epochs: int = 100
    distill_epochs: int = 100
    target_epochs: int = 100

    def __post_init__(self) -> None:
        names = ("teacher_epochs", "student_epochs", "distill_epochs", "target_epochs")
        expect_positive(self, *names)


@dataclass(frozen=True)
class OpenSets:
    """The sets that --open renders.

    In place of RHD: many people in all views, with depth. Of 𝒜: wider rotations and gestures,
    without sensor noise. Of STB: sequences of one person, tested on unseen ones. Of FreiHAND: the
    same frames in its four appearances.
    """

    source_count: int = 5000
    source_test: int = 500
    sequences: int = 8
    test_sequences: int = 4
    sequence_frames: int = 120
    freihand_count: int = 960
    freihand_test: int = 480

    def __post_init__(self) -> None:
        expect_positive(self, *(setting.name for setting in fields(self)))


@dataclass(frozen=True)
class Recipe:
    """Settings that the method leaves open, with the paper's values; see docs/paper.md."""

    alpha: float = 2.5e-4
    """Learning rate of the inner step."""
    beta: float = 1e-3
    """Step size of phi."""
    attention_weight: float = 1e3
    """lambda of Eq. 4."""
    phi_parameters: Literal["weights", "all"] = "all"
    """The parameters that phi, and plain l1 and l2, regularize: all, as in Eq. 10, or weights =
    tensors of two or more dimensions."""
    loss_unit: LossUnit = "m"
    """Unit of L_REG, which is squared. The paper does not state it; with meters, the paper's values
    of sigma have an effect on the weights."""
    loss_mean: bool = False
    """Compute L_REG as the mean over the 63 coordinates instead of the sum."""
    augmented: bool = False
    """Rotate, shift, zoom and recolor pictures during training; the paper's only augmentation is
    𝒜."""
    adam_goes_on: bool = False
    """Continue with Adam's state in the second half of training; otherwise start with a new
    state."""
    target_family: Family = "r18"
    """The network family whose theta_0 and prior the targets use."""

    def __post_init__(self) -> None:
        expect_positive(self, "alpha", "beta")
        expect_from_zero(self, "attention_weight")


Preset = Literal["table1", "table2", "table3", "figure4", "figure5", "figure6"]


@dataclass(frozen=True)
class Paper:
    """Settings of the paper's experiments; the defaults are the paper's values."""

    preset: Preset = "table1"
    out: str = "runs/paper"
    rhd: str = ""
    """Folder of RHD (RHD_published_v2)."""
    stb: str = ""
    """Folder of STB."""
    freihand: str = ""
    """Folder of FreiHAND (FreiHAND_pub_v2)."""
    mano: str = ""
    """File MANO_RIGHT.pkl, for 𝒜, the synthetic augmentation. Empty: the open hand model that ships
    with cmkg."""
    textures: str = ""
    """Folder of scans registered to MANO, for 𝒜. Empty: procedural skin."""
    rows: tuple[str, ...] = ()
    """Names of the rows to run (`--plan` lists them). Empty: all rows of the preset."""
    seeds: tuple[int, ...] = (0,)
    only_present: bool = False
    """For partial copies of the datasets, use only samples whose files are present; the report
    states this."""
    open: bool = False
    """Use rendered sets, which anyone can create, instead of RHD, 𝒜, STB and FreiHAND (see
    OpenSets), at a size for two cores unless other flags are given."""
    quick: bool = False
    """Shrink everything to minutes on two cores; datasets whose folders are not given are replaced
    by synthetic data in their layouts."""
    plan: bool = False
    """Print the rows and their cost, and stop; with --quick, first write the synthetic data."""
    synthetic_count: int = 50_000
    """Number of hands in 𝒜."""
    open_sets: Annotated[OpenSets, Flat] = field(default_factory=OpenSets)
    px: int = 256
    width: float = 1.0
    """Factor on the number of channels of every layer."""
    stem_stride: StemStride = 4
    batch: int = 32
    lr: float = 2.5e-4
    schedule: Literal["constant", "cosine"] = "constant"
    epochs: Annotated[Epochs, Flat] = field(default_factory=Epochs)
    recipe: Annotated[Recipe, Flat] = field(default_factory=Recipe)
    stb_wrist: Literal["ring", "middle", "mean"] = "ring"
    """How the wrist is derived from STB's palm center: see docs/datasets.md."""
    stb_camera: Literal["BB_left", "BB_right", "SK_color"] = "BB_left"
    backgrounds: tuple[str, ...] = ()
    """Folders of photographs used as the only backgrounds of 𝒜. Empty: those that ship with cmkg,
    and clutter. With --open they are used for all sets; sets other than 𝒜 also use clutter."""
    precision: Precision = "32-true"
    pictures: int = 6
    """Number of test pictures per row in figure 6; use more for Figs. 8 to 10."""

    def __post_init__(self) -> None:
        expect_positive(self, "synthetic_count", "px", "width", "batch", "lr", "pictures")
        expect_different_seeds(self.seeds)
        if self.preset not in ROWS:
            raise InputError(f"--preset: expected one of {', '.join(ROWS)}, got {self.preset!r}")
        known = [variant.stage for variant in ROWS[self.preset]]
        for row in self.rows:
            if row not in known and not is_other_strength(row):
                raise InputError(
                    f"--rows: {self.preset} has no row {row!r}; it has {', '.join(known)}; and "
                    "any sigma, as stb/l2-1e-2"
                )

    def wanted(self) -> list[str]:
        """The stages to run."""
        return list(self.rows) or [variant.stage for variant in ROWS[self.preset]]


# Sized for an hour per table on two idle cores; the source's schedule keeps the paper's ratios.
OPEN_OUT = "runs/paper-open"
OPEN_EPOCHS = Epochs(teacher_epochs=10, student_epochs=5, distill_epochs=5, target_epochs=20)


def preset_of(name: Preset, is_open: bool = False) -> Paper:
    """The settings of a table or figure; is_open selects those of --open."""
    paper = replace(Paper(), preset=name)
    if not is_open:
        return paper
    return replace(
        paper,
        out=OPEN_OUT,
        open=True,
        seeds=(0, 1, 2),
        synthetic_count=1000,
        px=48,
        width=0.25,
        lr=4e-3,
        schedule="cosine",
        epochs=OPEN_EPOCHS,
    )


# ---- rows of a target ---------------------------------------------------------------------------
STRENGTH = re.compile(r"l([12])-(.+)")


def regulariser_of(row: str) -> Regulariser:
    """The regularizer of a target's row: none, l1-<sigma>, l2-<sigma>, prior-l1 or prior-l2.

    A prior is given by its file's stem, in the main source's stage.

    Raises:
        ValueError: the row is none of these.
    """
    if row == "none":
        return Regulariser()
    if row in ("prior-l1", "prior-l2"):
        return Regulariser(prior=f"prior_p{row[-1]}")
    match = STRENGTH.fullmatch(row)
    if match is None:
        raise ValueError(f"no such row: {row!r}")
    return Regulariser(sigma=float(match[2]), exponent=int(match[1]))


def is_other_strength(row: str) -> bool:
    """Whether this is a target's row with an arbitrary sigma, such as stb/l2-1e-2."""
    data, _, name = row.partition("/")
    match = STRENGTH.fullmatch(name)
    if data not in TARGETS or match is None:
        return False
    try:
        return float(match[2]) > 0
    except ValueError:
        return False
