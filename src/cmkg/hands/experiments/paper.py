"""`cmkg run table1|table2|table3|figure4|figure5|figure6`: the paper's experiments.

On the user's copies of the datasets. A row is a named variant: one training stage and what it
needs. Stages lie in <out>/seed-<s>/<stage> and serve every table that needs them: rows can be run
alone, in any order, on several machines, and go on where they were killed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

from ...errors import InputError
from ...runtime.checks import expect_different_seeds, expect_from_zero, expect_positive
from ...runtime.distributed import Precision, launch, on_first_rank
from ...runtime.files import write_json
from ...runtime.progress import say
from ...runtime.runs import hold_folder, replace_settings
from ..datasets.freihand import DOMAINS, FreiHand
from ..datasets.packed import Shard, pack
from ..datasets.rendered import Rendered
from ..datasets.rhd import Rhd
from ..datasets.sample import Dataset, pixels_to_store
from ..datasets.stb import Stb
from ..datasets.synthetic import make_dataset
from ..network.augment import NONE, Augmentation
from ..network.posenet import LossUnit, NetConfig, StemStride
from ..rendering.scenes import SceneConfig
from ..stages import distill, render, source, target
from ..stages.fitting import OPTIMIZER
from ..stages.networks import Modality
from ..stages.settings import Flat, OptimConfig, SourceData
from .rows import Stage, run_stage
from .step_costs import StepKind, seconds_per_step

Family = Literal["r18", "r18-a", "r50", "r50-a"]  # a backbone on RHD, with 𝒜 or without
BACKBONES = {"r18": "resnet18", "r50": "resnet50"}
QUICK_WIDTH, QUICK_COUNT = 0.125, 200


@dataclass(frozen=True)
class Variant:
    """A row of the paper's tables: the stage that it is, and the paper's numbers for it.

    Table 1's RGB numbers stand beside both halves: the paper does not say after how many epochs
    they were taken.
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


def _chosen(variants: list[Variant], *stages: str) -> list[Variant]:
    there = {variant.stage: variant for variant in variants}
    return [there[stage] for stage in stages]


_RHD_AND_STB = TABLE_1 + TABLE_2
# Which rows a preset trains.
ROWS = {
    "table1": TABLE_1,
    "table2": TABLE_2,
    "table3": TABLE_3,
    "figure4": _chosen(_RHD_AND_STB, "r18-a/act-att", "r50-a/act-att", "stb/none", "stb/prior-l2"),
    "figure5": _chosen(TABLE_2, "stb/none", "stb/l2-1e-5", "stb/prior-l1", "stb/prior-l2"),
    "figure6": [
        *_chosen(_RHD_AND_STB, "r18-a/continued", "r18-a/act-att"),
        # Table 3's have no AUC.
        *_chosen(TABLE_3, "stb/none", "stb/prior-l2", "freihand-auto/prior-l2"),
    ],
}


@dataclass(frozen=True)
class Epochs:
    """How long each stage is trained; the paper's values."""

    teacher_epochs: int = 200
    student_epochs: int = 100
    distill_epochs: int = 100
    target_epochs: int = 100

    def __post_init__(self) -> None:
        names = ("teacher_epochs", "student_epochs", "distill_epochs", "target_epochs")
        expect_positive(self, *names)


@dataclass(frozen=True)
class OpenSets:
    """What --open draws.

    In place of RHD many people in all views, with depth; of 𝒜 wider turns and gestures, without a
    sensor's noise; of STB one person's sequences, unseen ones tested; of FreiHAND the same frames
    in its four appearances.
    """

    source_count: int = 3000
    source_test: int = 400
    sequences: int = 4
    test_sequences: int = 2
    sequence_frames: int = 120
    freihand_count: int = 480
    freihand_test: int = 240

    def __post_init__(self) -> None:
        expect_positive(self, *(one.name for one in fields(self)))


@dataclass(frozen=True)
class Recipe:
    """What the method leaves to set, with the paper's values; docs/paper.md has them beside it."""

    alpha: float = 2.5e-4
    """Rate of the inner step."""
    beta: float = 1e-3
    """phi's step."""
    attention_weight: float = 1e3
    """lambda of Eq. 4."""
    phi_parameters: Literal["weights", "all"] = "all"
    """What carries phi, and what plain l1 and l2 hold: all, as Eq. 10 says, or tensors of two
    dimensions or more."""
    loss_unit: LossUnit = "m"
    """Of L_REG, squared. The paper does not say; in metres its sigma change the weights."""
    loss_mean: bool = False
    """L_REG as the mean over the 63 coordinates in place of the sum."""
    augmented: bool = False
    """Turn, shift, zoom and recolour pictures while training; the paper's only augmentation is
    𝒜."""
    adam_goes_on: bool = False
    """The second half goes on with Adam's state; else it begins anew."""
    target_family: Family = "r18"
    """Whose theta_0 and prior the targets use."""

    def __post_init__(self) -> None:
        expect_positive(self, "alpha", "beta")
        expect_from_zero(self, "attention_weight")


@dataclass(frozen=True)
class Paper:
    """Settings of the paper's experiments; its values are the defaults."""

    preset: Literal["table1", "table2", "table3", "figure4", "figure5", "figure6"] = "table1"
    out: str = "runs/paper"
    rhd: str = ""
    """Folder RHD_published_v2."""
    stb: str = ""
    """Folder of STB."""
    freihand: str = ""
    """Folder FreiHAND_pub_v2."""
    mano: str = ""
    """MANO_RIGHT.pkl for 𝒜, the synthetic augmentation; empty = the open hand that ships with
    cmkg."""
    textures: str = ""
    """Scans registered to MANO, for 𝒜; empty = procedural skin."""
    rows: tuple[str, ...] = ()
    """Names of the rows to run (`--plan` lists them); empty = all of the preset."""
    seeds: tuple[int, ...] = (0,)
    open: bool = False
    """On sets that anyone can draw in place of RHD, 𝒜, STB and FreiHAND (see OpenSets), at a size
    for two cores unless other flags say otherwise."""
    quick: bool = False
    """Shrinks everything to minutes on two cores; a dataset whose folder is not given is made in
    its layout."""
    plan: bool = False
    """Print the rows and what they cost, and stop; with --quick the made data is written first."""
    synthetic_count: int = 50_000
    """Hands of 𝒜."""
    open_sets: Annotated[OpenSets, Flat] = field(default_factory=OpenSets)
    px: int = 256
    width: float = 1.0
    """Multiple of every layer's channels."""
    stem_stride: StemStride = 4
    batch: int = 32
    lr: float = 2.5e-4
    schedule: Literal["constant", "cosine"] = "constant"
    epochs: Annotated[Epochs, Flat] = field(default_factory=Epochs)
    recipe: Annotated[Recipe, Flat] = field(default_factory=Recipe)
    stb_wrist: Literal["ring", "middle", "mean"] = "ring"
    """How STB's palm centre becomes a wrist: see docs/datasets.md."""
    stb_camera: Literal["BB_left", "BB_right", "SK_color"] = "BB_left"
    backgrounds: str = ""
    """Folder of photographs behind the hands of 𝒜; empty = those that ship with cmkg, and
    clutter."""
    precision: Precision = "32-true"

    def __post_init__(self) -> None:
        expect_positive(self, "synthetic_count", "px", "width", "batch", "lr")
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


# What two quiet cores do in an hour or so: the paper's schedule in proportion.
OPEN_OUT = "runs/paper-open"
OPEN_EPOCHS = Epochs(teacher_epochs=30, student_epochs=15, distill_epochs=15, target_epochs=15)


def preset_of(name: str, is_open: bool = False) -> Paper:
    """The settings of a table or figure; is_open: those of --open."""
    paper = replace_settings(Paper(), preset=name)
    if not is_open:
        return paper
    return replace_settings(
        paper,
        out=OPEN_OUT,
        open=True,
        seeds=(0, 1, 2),
        synthetic_count=3000,
        px=64,
        width=0.25,
        lr=2e-3,
        schedule="cosine",
        epochs=OPEN_EPOCHS,
    )


Results = dict[int, dict[str, dict[str, Any]]]


def run(config: Paper) -> Results | None:
    """Runs the rows of a preset.

    Returns {seed: {stage: result}}, or None where only the plan was asked.
    """
    launch(config.precision)
    config = shrink(config) if config.quick else config
    out = Path(config.out)
    plans = {seed: all_stages(config, config.wanted(), seed) for seed in config.seeds}
    sets = datasets_of(config, plans[config.seeds[0]])
    sizes = {name: len(dataset) for name, dataset in sets.items()}  # what is not there shows here
    print_plan(config, plans, sizes)
    if config.plan:
        return None
    with hold_folder(out):
        return run_plans(config, plans, sets)


def run_plans(
    config: Paper, plans: dict[int, dict[str, Stage]], sets: dict[str, Dataset]
) -> Results:
    """Packs the datasets, runs every seed's stages and writes the page."""
    out = Path(config.out)
    for name, dataset in sets.items():
        say(f"data: {name}")
        pack(dataset, out / "data" / name)
    write_json(out / "paper_rows.json", describe_rows(config))
    results: Results = {seed: {} for seed in plans}
    for seed, plan in plans.items():
        for name, stage in plan.items():
            say(f"seed {seed}: {name}")
            result = results[seed][name] = run_stage(stage)
            say(f"seed {seed}: {name}: EPE {result['epe_mm']:.2f} mm")
    write_report(out)
    return results


def describe_rows(config: Paper) -> dict[str, dict[str, list[Any]]]:
    """{preset: {stage: [label, the paper's EPE, its AUC]}}, for the report."""
    found = {}
    for preset, variants in ROWS.items():
        known = [variant.stage for variant in variants]
        targets = {stage.split("/")[0] for stage in known}
        other = [row for row in other_strengths(config) if row.split("/")[0] in targets]
        every = [*variants, *(Variant(row, row) for row in other if row not in known)]
        found[preset] = {
            v.stage: [label_of(v, config.epochs), v.paper_epe_mm, v.paper_auc] for v in every
        }
    return found


def other_strengths(config: Paper) -> list[str]:
    """Rows at another sigma than the paper's: those asked for, and those that are finished."""
    done = Path(config.out).glob("seed-*/*/l[12]-*/result.json")
    rows = [*config.rows, *sorted({"/".join(path.parts[-3:-1]) for path in done})]
    return list(dict.fromkeys(row for row in rows if is_other_strength(row)))


def label_of(variant: Variant, epochs: Epochs) -> str:
    """A row's label; RGB students' with their epochs."""
    kind = variant.stage.split("/")[1]
    halves = {"student": 0, "continued": epochs.distill_epochs}
    if kind not in halves:
        return variant.label
    return f"{variant.label}, {epochs.student_epochs + halves[kind]} epochs"


def write_report(out: Path) -> None:
    """The page of whatever is finished."""
    from ..report import paper_page

    on_first_rank(lambda: paper_page.write(out))
    say(f"{out}/paper.html is written")


def shrink(config: Paper) -> Paper:
    """The same experiment in minutes: made data where none is given, tiny networks, one epoch."""
    out = config.out if config.out not in (Paper.out, OPEN_OUT) else f"{config.out}-quick"
    smallest = {
        "px": 32,
        "width": QUICK_WIDTH,
        "batch": 8,
        "lr": 1e-3,
        "epochs": Epochs(1, 1, 1, 1),
    }
    if config.open:
        few = OpenSets(48, 16, 2, 1, 16, 24, 16)
        return replace_settings(config, out=out, synthetic_count=24, open_sets=few, **smallest)
    needed = sets_needed(all_stages(config, config.wanted(), 0))
    needs = {name.split("-")[0] for name in needed}
    folders = {}
    for name in ("rhd", "stb", "freihand"):
        if getattr(config, name):
            continue
        folders[name] = str(Path(out) / "made" / name)
        if name in needs:
            on_first_rank(partial(make_dataset, name, folders[name], 40))
    return replace_settings(
        config,
        out=out,
        synthetic_count=40,
        **smallest,
        **folders,
    )


# ---- stages --------------------------------------------------------------------------------------
# The stages of a source, and those of the same family that each needs.
NEEDS = {
    "teacher": [],
    "student": [],
    "continued": ["student"],
    "act": ["teacher", "student"],
    "act-att": ["teacher", "student"],
}


def needs_of(stage: str, main: Family) -> list[str]:
    """The stages that must be finished before this one; main: of the targets."""
    family, kind = stage.split("/")
    if kind in NEEDS:
        return [f"{family}/{need}" for need in NEEDS[kind]]
    return [f"{main}/act-att" if kind.startswith("prior") else f"{main}/student"]


STRENGTH = re.compile(r"l([12])-(.+)")


def regulariser_of(row: str) -> dict[str, Any]:
    """What a target's row sets: none, l1-<sigma>, l2-<sigma>, prior-l1 or prior-l2.

    A prior is named by its file's stem, in the main source's stage.

    Raises:
        ValueError: another row.
    """
    if row == "none":
        return {}
    if row in ("prior-l1", "prior-l2"):
        return {"prior": f"prior_p{row[-1]}"}
    match = STRENGTH.fullmatch(row)
    if match is None:
        raise ValueError(f"no such row: {row!r}")
    return {"sigma": float(match[2]), "exponent": int(match[1])}


def is_other_strength(row: str) -> bool:
    """Whether this is a row of a target at any sigma, as stb/l2-1e-2."""
    data, _, name = row.partition("/")
    match = STRENGTH.fullmatch(name)
    if data not in TARGETS or match is None:
        return False
    try:
        return float(match[2]) > 0
    except ValueError:
        return False


def all_stages(config: Paper, rows: list[str], seed: int) -> dict[str, Stage]:
    """{stage: settings} of the rows and all that they need, in an order in which they can run."""
    plan: dict[str, Stage] = {}

    def add(stage: str) -> None:
        for need in needs_of(stage, config.recipe.target_family):
            add(need)
        family, kind = stage.split("/")
        if kind in NEEDS:
            plan[stage] = source_stage(config, family, kind, seed)
        else:
            plan[stage] = target_stage(config, family, kind, seed)

    for row in rows:
        add(row)
    return plan


def optim_of(config: Paper, seed: int, epochs: int) -> OptimConfig:
    """Adam as the paper takes it."""
    return OptimConfig(epochs, config.batch, config.lr, config.schedule, seed, config.precision)


def net_of(config: Paper, family: str) -> NetConfig:
    """The network of a family: r18, r18-a (with 𝒜), r50-a."""
    return NetConfig(
        BACKBONES[family.split("-")[0]],
        config.width,
        stem_stride=config.stem_stride,
        loss_unit=config.recipe.loss_unit,
        loss_mean=config.recipe.loss_mean,
        px=config.px,
    )


def augmentation_of(config: Paper) -> Augmentation:
    """None, as in the paper, unless asked."""
    return Augmentation() if config.recipe.augmented else NONE


def source_stage(config: Paper, family: str, kind: str, seed: int) -> Stage:
    """Settings of a stage on RHD; kind is a key of NEEDS."""
    packed, home = Path(config.out) / "data", Path(config.out) / f"seed-{seed}" / family
    data = SourceData(
        data=str(packed / "rhd-training"),
        extra=str(packed / "synthetic") if family.endswith("-a") else "",
        test=str(packed / "rhd-evaluation"),
    )
    epochs, out = config.epochs, str(home / kind)

    goes_on = config.recipe.adam_goes_on
    state = str(home / "student" / OPTIMIZER) if goes_on else ""

    def train(modality: Modality, count: int, **settings: Any) -> source.Source:
        return source.Source(
            modality=modality,
            out=out,
            source=data,
            net=net_of(config, family),
            optim=optim_of(config, seed, count),
            augmentation=augmentation_of(config),
            **settings,
        )

    if kind == "teacher":
        return train("depth", epochs.teacher_epochs)
    if kind == "student":
        return train("rgb", epochs.student_epochs, keep_optimizer=goes_on)
    if kind == "continued":
        start = str(home / "student/student.safetensors")
        return train("rgb", epochs.distill_epochs, start=start, optimizer_state=state)
    whole = kind == "act-att"
    recipe = config.recipe
    return distill.Distill(
        student=str(home / "student"),
        teacher=str(home / "teacher"),
        out=out,
        attention_weight=recipe.attention_weight if whole else 0.0,
        optimizer_state=state,
        source=data,
        phi=distill.PhiConfig(
            exponents=(1, 2) if whole else (),
            alpha=recipe.alpha,
            beta=recipe.beta,
            phi_parameters=recipe.phi_parameters,
        ),
        optim=optim_of(config, seed, epochs.distill_epochs),
        augmentation=augmentation_of(config),
    )


def target_stage(config: Paper, data: str, row: str, seed: int) -> target.Target:
    """Settings of a row on a target.

    Args:
        config: the experiment.
        data: stb or freihand-<domain>.
        row: see regulariser_of.
        seed: of the whole.
    """
    packed, home = Path(config.out) / "data", Path(config.out) / f"seed-{seed}"
    main = home / config.recipe.target_family
    changes = regulariser_of(row) | {"parameters": config.recipe.phi_parameters}
    if "prior" in changes:
        changes["prior"] = str(main / "act-att" / f"{changes['prior']}.safetensors")
    return target.Target(
        out=str(home / data / row),
        student=str(main / "student"),
        source=str(packed / "rhd-training"),
        target=target.TargetData(str(packed / f"{data}-train"), str(packed / f"{data}-test")),
        regulariser=target.Regulariser(**changes),
        optim=optim_of(config, seed, config.epochs.target_epochs),
        augmentation=augmentation_of(config),
    )


# ---- data ----------------------------------------------------------------------------------------
def sets_read(stage: Stage) -> list[str]:
    """The packed sets that a stage reads: those to train on first, its test last."""
    if isinstance(stage, target.Target):
        paths = [stage.target.data, stage.target.test]
    else:
        paths = [stage.source.data, stage.source.extra, stage.source.test]
    return [Path(path).name for path in paths if path]


def sets_needed(plan: dict[str, Stage]) -> list[str]:
    """Names of the packed sets that the stages read, in their order."""
    return list(dict.fromkeys(name for stage in plan.values() for name in sets_read(stage)))


def datasets_of(config: Paper, plan: dict[str, Stage]) -> dict[str, Dataset]:
    """{name of packed set: dataset} of the stages.

    Raises:
        InputError: a folder is not given or not there.
    """
    px = pixels_to_store(config.px)
    if config.open:
        drawn = open_datasets(config, px)
        return {name: drawn[name] for name in sets_needed(plan)}

    def folder(name: str) -> str:
        given = str(getattr(config, name))
        if not given:
            raise InputError(
                f"--{name}: expected the dataset's folder, got none; give it, or --quick to try "
                "everything with made data"
            )
        return given

    def synthetic() -> Dataset:
        scene = SceneConfig(
            px=px,
            noisy_depth=False,
            backgrounds=config.backgrounds,
            mano=config.mano,
            textures=config.textures,
        )
        return render.dataset_of(render.Render(count=config.synthetic_count, scene=scene))

    def freihand(split: str, domain: str) -> Dataset:
        return FreiHand(folder("freihand"), split, domain, px)

    known: dict[str, Callable[[], Dataset]] = {
        "rhd-training": lambda: Rhd(folder("rhd"), "training", px),
        "rhd-evaluation": lambda: Rhd(folder("rhd"), "evaluation", px),
        "stb-train": lambda: Stb(folder("stb"), "train", config.stb_camera, config.stb_wrist, px),
        "stb-test": lambda: Stb(folder("stb"), "test", config.stb_camera, config.stb_wrist, px),
        "synthetic": synthetic,
    }
    for domain in DOMAINS:
        for split in ("train", "test"):
            known[f"freihand-{domain}-{split}"] = partial(freihand, split, domain)
    found = {name: known[name]() for name in sets_needed(plan)}
    return {name: few_of(dataset) for name, dataset in found.items()} if config.quick else found


# Seeds of what --open draws: no person, view or wall of one set is in another.
SOURCE_SEED, SYNTHETIC_SEED, ONE_PERSON_SEED, MANY_PEOPLE_SEED = 11, 12, 13, 14


def open_datasets(config: Paper, px: int) -> dict[str, Dataset]:
    """{name of packed set: dataset} of --open, under the names of those that they stand for."""
    sets = config.open_sets
    given = {"px": px, "mano": config.mano, "textures": config.textures}
    given["backgrounds"] = config.backgrounds

    def scenes(seed: int, **changes: Any) -> SceneConfig:
        return replace_settings(SceneConfig(), seed=seed, **given, **changes)

    source = scenes(SOURCE_SEED)
    synthetic = scenes(SYNTHETIC_SEED, wide=True, noisy_depth=False)
    person = scenes(
        ONE_PERSON_SEED, sequences=sets.sequences + sets.test_sequences, frames=sets.sequence_frames
    )
    train, test = (count * sets.sequence_frames for count in (sets.sequences, sets.test_sequences))
    found: dict[str, Dataset] = {
        "rhd-training": Rendered(source, sets.source_count),
        "rhd-evaluation": Rendered(source, sets.source_test, sets.source_count),
        "synthetic": Rendered(synthetic, config.synthetic_count),
        "stb-train": Rendered(person, train, with_depth=False),
        "stb-test": Rendered(person, test, train, with_depth=False),
    }
    for domain in DOMAINS:
        looks = scenes(MANY_PEOPLE_SEED, appearance=domain)
        count, tested = sets.freihand_count, sets.freihand_test
        found[f"freihand-{domain}-train"] = Rendered(looks, count, with_depth=False)
        found[f"freihand-{domain}-test"] = Rendered(looks, tested, count, with_depth=False)
    return found


def few_of(dataset: Dataset, most: int = QUICK_COUNT) -> Dataset:
    """For --quick: about `most` samples of a larger dataset."""
    if len(dataset) < 2 * most:
        return dataset
    return Shard(dataset, f"0/{len(dataset) // most}")


# ---- what it costs -------------------------------------------------------------------------------
def print_plan(config: Paper, plans: dict[int, dict[str, Stage]], sizes: dict[str, int]) -> None:
    """Prints the rows, and the hours of what is not finished, from a few steps measured here."""
    measured: dict[StepKind, float] = {}
    total = 0.0
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "this CPU"
    say(f"{config.preset}: rows {', '.join(config.wanted())}")
    for seed, plan in plans.items():
        for stage, settings in plan.items():
            if (Path(settings.out) / "result.json").exists():
                say(f"  seed {seed}  {stage:26} finished")
                continue
            kind = step_kind(config, stage, settings)
            if kind not in measured:
                measured[kind] = seconds_per_step(kind)
            count = sum(sizes[one] for one in sets_read(settings)[:-1])
            steps = settings.optim.epochs * (count // min(settings.optim.batch, count))
            seconds = steps * measured[kind]
            total += seconds
            say(
                f"  seed {seed}  {stage:26} {steps:8} steps of {1000 * measured[kind]:7.0f} ms  "
                f"{seconds / 3600:8.2f} h"
            )
    say(
        f"  all: {total / 3600:.2f} hours on {name}, from steps measured now; rendering, packing "
        "and tests not counted"
    )


def step_kind(config: Paper, stage: str, settings: Stage) -> StepKind:
    """What kind of step a stage takes."""
    kind = "student"
    if isinstance(settings, distill.Distill):
        kind = "meta" if settings.phi.exponents else "distil"
    elif isinstance(settings, source.Source) and settings.modality == "depth":
        kind = "teacher"
    family = stage.split("/")[0]
    is_source = family.split("-")[0] in BACKBONES
    net = net_of(config, family if is_source else config.recipe.target_family)
    return StepKind(kind, net, config.batch, config.precision)
