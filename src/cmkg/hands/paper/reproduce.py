"""`cmkg run table1|table2|table3|figure4|figure5|figure6`: the paper's experiments.

They run on the user's copies of the datasets. A row is a named variant: one training stage and its
prerequisites. Stages lie in <out>/seed-<s>/<stage> and are shared by all tables that need them:
rows can be run alone, in any order, on several machines, and are resumed after an interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...prior.learner import MetaConfig
from ...runtime.distributed import launch, on_first_rank
from ...runtime.files import write_sealed_json
from ...runtime.locks import hold_folder
from ...runtime.progress import say
from ..commands import distill, evaluate, student, target
from ..commands.any_stage import Stage, run_stage
from ..datasets.packed.pack import pack
from ..datasets.sample import Dataset
from ..network.augment import NONE, Augmentation
from ..network.posenet import NetConfig
from ..stages.finished_run import Modality
from ..stages.stage_run import OPTIMIZER
from ..stages.stage_settings import OptimConfig, SourceData
from ..synthesis.synthetic import make_dataset
from .paper_sets import datasets_of, sets_needed, sets_read
from .presets import (
    BACKBONES,
    OPEN_OUT,
    ROWS,
    Epochs,
    Family,
    OpenSets,
    Paper,
    Preset,
    Variant,
    is_other_strength,
    preset_of,
    regulariser_of,
)
from .step_costs import StepKind, seconds_per_step

QUICK_WIDTH = 0.125

Results = dict[int, dict[str, dict[str, Any]]]


SETTINGS = Paper()


def settings_for(preset: Preset, arguments: Sequence[str]) -> Paper:
    """The settings of a table or figure; with --open in the arguments, those for open data."""
    return preset_of(preset, "--open" in arguments)


def run(config: Paper) -> Results | None:
    """Runs the rows of a preset.

    Returns {seed: {stage: result}}, or None if only the plan was requested.
    """
    launch(config.precision)
    config = shrink(config) if config.quick else config
    out = Path(config.out)
    plans = {seed: all_stages(config, config.wanted(), seed) for seed in config.seeds}
    sets = datasets_of(config, plans[config.seeds[0]])
    sizes = {name: len(dataset) for name, dataset in sets.items()}  # fails early if data is missing
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
    write_sealed_json(out / "paper_rows.json", describe_rows(config))
    results: Results = {seed: {} for seed in plans}
    for seed, plan in plans.items():
        for name, stage in plan.items():
            say(f"seed {seed}: {name}")
            result = results[seed][name] = run_stage(stage)
            say(f"seed {seed}: {name}: EPE {result['epe_mm']:.2f} mm")
    write_paper_report(out, config.pictures)
    return results


def describe_rows(config: Paper) -> dict[str, dict[str, list[Any]]]:
    """{preset: {stage: [label, the paper's EPE, its AUC]}}, for the report."""
    rows, at_any_sigma = {}, other_strengths(config)
    for preset, variants in ROWS.items():
        known = [variant.stage for variant in variants]
        targets = {stage.split("/")[0] for stage in known}
        other = [row for row in at_any_sigma if row.split("/")[0] in targets]
        every = [*variants, *(Variant(row, row) for row in other if row not in known)]
        rows[preset] = {
            v.stage: [label_of(v, config.epochs), v.paper_epe_mm, v.paper_auc] for v in every
        }
    return rows


def other_strengths(config: Paper) -> list[str]:
    """Rows at another sigma than the paper's: those requested, and those that are finished."""
    done = Path(config.out).glob("seed-*/*/l[12]-*/result.json")
    rows = [*config.rows, *sorted({"/".join(path.parts[-3:-1]) for path in done})]
    return list(dict.fromkeys(row for row in rows if is_other_strength(row)))


def label_of(variant: Variant, epochs: Epochs) -> str:
    """A row's label; for RGB students, with the number of epochs."""
    kind = variant.stage.split("/")[1]
    halves = {"student": 0, "continued": epochs.distill_epochs}
    if kind not in halves:
        return variant.label
    return f"{variant.label}, {epochs.student_epochs + halves[kind]} epochs"


def write_paper_report(out: Path, pictures: int) -> None:
    """Writes the page of all finished rows, with `pictures` test pictures per row."""
    from . import paper_page

    on_first_rank(lambda: paper_page.write(out, pictures))
    say(f"{out}/paper.html is written")


def shrink(config: Paper) -> Paper:
    """The experiment in minutes: synthetic data for missing datasets, tiny networks, one epoch."""
    out = config.out if config.out not in (Paper.out, OPEN_OUT) else f"{config.out}-quick"
    small = replace(
        config,
        out=out,
        px=32,
        width=QUICK_WIDTH,
        batch=8,
        lr=1e-3,
        epochs=Epochs(1, 1, 1, 1),
    )
    if config.open:
        few = OpenSets(48, 16, 2, 1, 16, 24, 16)
        return replace(small, synthetic_count=24, open_sets=few)
    needed = sets_needed(all_stages(config, config.wanted(), 0))
    needs = {name.split("-")[0] for name in needed}

    def folder_of(name: str, given: str) -> str:
        """The user's folder, or synthetic data in the dataset's layout."""
        if given:
            return given
        folder = str(Path(out) / "made" / name)
        if name in needs:
            on_first_rank(partial(make_dataset, name, folder, 40))
        return folder

    return replace(
        small,
        synthetic_count=40,
        rhd=folder_of("rhd", config.rhd),
        stb=folder_of("stb", config.stb),
        freihand=folder_of("freihand", config.freihand),
    )


# ---- stages --------------------------------------------------------------------------------------
# The stages of a source, and the stages of the same family that each needs.
NEEDS = {
    "teacher": [],
    "student": [],
    "continued": ["student"],
    "act": ["teacher", "student"],
    "act-att": ["teacher", "student"],
}


def needs_of(stage: str, main: Family) -> list[str]:
    """The stages that must be finished before this one; main: the family of the targets."""
    family, kind = stage.split("/")
    if family == "synthetic":
        return [f"stb/{kind}"]
    if kind in NEEDS:
        return [f"{family}/{need}" for need in NEEDS[kind]]
    return [f"{main}/act-att" if kind.startswith("prior") else f"{main}/student"]


def all_stages(config: Paper, rows: list[str], seed: int) -> dict[str, Stage]:
    """{stage: settings} of the rows and all their prerequisites, in a valid order of execution."""
    plan: dict[str, Stage] = {}

    def add(stage: str) -> None:
        for need in needs_of(stage, config.recipe.target_family):
            add(need)
        family, kind = stage.split("/")
        if family == "synthetic":
            plan[stage] = synthetic_stage(config, kind, seed)
        elif kind in NEEDS:
            plan[stage] = source_stage(config, family, kind, seed)
        else:
            plan[stage] = target_row_settings(config, family, kind, seed)

    for row in rows:
        add(row)
    return plan


def optim_of(config: Paper, seed: int, epochs: int) -> OptimConfig:
    """The paper's Adam settings."""
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
    """No augmentation, as in the paper, unless requested."""
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

    def train(modality: Modality, count: int, **settings: Any) -> student.Source:
        return student.Source(
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
    # theta's path does not depend on phi: only learn the phi that the targets read.
    is_read = whole and family == recipe.target_family
    return distill.Distill(
        student=str(home / "student"),
        teacher=str(home / "teacher"),
        out=out,
        criterion=distill.CriterionConfig(
            attention_weight=recipe.attention_weight if whole else 0.0
        ),
        optimizer_state=state,
        source=data,
        phi=MetaConfig(
            exponents=(1, 2) if is_read else (),
            alpha=recipe.alpha,
            beta=recipe.beta,
            select=recipe.phi_parameters,
        ),
        optim=optim_of(config, seed, epochs.distill_epochs),
        augmentation=augmentation_of(config),
    )


def target_row_settings(config: Paper, data: str, row: str, seed: int) -> target.Target:
    """Settings of a row on a target.

    Args:
        config: the experiment.
        data: stb or freihand-<domain>.
        row: see regulariser_of.
        seed: of the complete experiment.
    """
    packed, home = Path(config.out) / "data", Path(config.out) / f"seed-{seed}"
    main = home / config.recipe.target_family
    regulariser = replace(regulariser_of(row), parameters=config.recipe.phi_parameters)
    if regulariser.prior:
        file = main / "act-att" / f"{regulariser.prior}.safetensors"
        regulariser = replace(regulariser, prior=str(file))
    return target.Target(
        out=str(home / data / row),
        student=str(main / "student"),
        source=str(packed / "rhd-training"),
        target=target.TargetData(str(packed / f"{data}-train"), str(packed / f"{data}-test")),
        regulariser=regulariser,
        optim=optim_of(config, seed, config.epochs.target_epochs),
        augmentation=augmentation_of(config),
    )


def synthetic_stage(config: Paper, row: str, seed: int) -> Stage:
    """A row of STB on the synthetic set, with predictions in that set's convention."""
    packed, home = Path(config.out) / "data", Path(config.out) / f"seed-{seed}"
    return evaluate.Evaluate(
        weights=str(home / "stb" / row / "target.safetensors"),
        data=str(packed / "synthetic-test"),
        out=str(home / "synthetic" / row),
        student=str(home / config.recipe.target_family / "student"),
        source=str(packed / "stb-train"),
        precision=config.precision,
    )


# ---- what it costs -------------------------------------------------------------------------------
def print_plan(config: Paper, plans: dict[int, dict[str, Stage]], sizes: dict[str, int]) -> None:
    """Prints the rows, and the estimated hours of unfinished ones, from a few steps timed here."""
    measured: dict[StepKind, float] = {}
    total = 0.0
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "this CPU"
    say(f"{config.preset}: rows {', '.join(config.wanted())}")
    for seed, plan in plans.items():
        for stage, settings in plan.items():
            if (Path(settings.out) / "result.json").exists():
                say(f"  seed {seed}  {stage:26} finished")
                continue
            if isinstance(settings, evaluate.Evaluate):
                say(f"  seed {seed}  {stage:26} a test alone")
                continue
            kind = step_kind(config, stage, settings)
            if kind not in measured:
                measured[kind] = seconds_per_step(kind)
            count = sum(sizes[name] for name in sets_read(settings)[:-1])
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
    """The kind of step that a stage takes."""
    kind = "student"
    if isinstance(settings, distill.Distill):
        kind = "meta" if settings.phi.exponents else "distil"
    elif isinstance(settings, student.Source) and settings.modality == "depth":
        kind = "teacher"
    family = stage.split("/")[0]
    is_source = family.split("-")[0] in BACKBONES
    net = net_of(config, family if is_source else config.recipe.target_family)
    return StepKind(kind, net, config.batch, config.precision)
