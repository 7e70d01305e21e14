"""How large is the gain from depth with few labels, and how does it transfer without depth?

    python -m studies.worth --out runs/worth --real-hands folder

The protocol is docs/study.md. Each seed draws new labels, theta_0 and sample order, trains all
source stages, and then the targets: the spread includes everything except the pictures. All results
are reused and resumed; with --seeds and --parts, several processes can share the work.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from safetensors.torch import load_file, save_file

from cmkg.errors import Diverged, InputError
from cmkg.hands.commands import distill, evaluate, render, target
from cmkg.hands.commands.any_stage import SourceStage, run_stage
from cmkg.hands.commands.target import Regulariser
from cmkg.hands.datasets.packed.format import Packed
from cmkg.hands.datasets.sample import pixels_to_store
from cmkg.hands.experiments.demo_data import draw_sequences, pack_folder
from cmkg.hands.experiments.demo_settings import MILD_AUGMENTATION, SLIM_NET, Experiment, Expert
from cmkg.hands.experiments.demo_stages import UNTOUCHED
from cmkg.hands.experiments.demo_stages import source_stages as stages_of_run
from cmkg.hands.experiments.rows import Blocks, Folders, Row, select_rows, train_row, with_folders
from cmkg.hands.network.loader import Loader
from cmkg.hands.network.pose_loss import loss_of
from cmkg.hands.network.posenet import NetConfig
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.report.collect import chosen_folder, spread
from cmkg.hands.stages.finished_run import FinishedRun
from cmkg.hands.stages.stage_settings import Flat, OptimConfig
from cmkg.prior.make import fisher
from cmkg.prior.prior import Prior
from cmkg.runtime.checks import expect_at_least_one, expect_different_seeds, expect_positive
from cmkg.runtime.distributed import Precision
from cmkg.runtime.files import read_json, read_sealed_json, write_atomically, write_json
from cmkg.runtime.progress import say
from cmkg.runtime.run_records import read_result
from cmkg.runtime.settings import settings_of
from cmkg.runtime.weight_files import load_weights
from studies.program import main

ROTATIONS = (-30.0, -15.0, 0.0, 15.0, 30.0)
TARGETS = ("rendered", "photographs")
SOURCE_LABELS = {
    "student": "labels only",
    "teacher": "depth itself, on the labels",
    "rgb": "control: taught by RGB",
    "shuffled": "control: taught by shuffled depth",
    "depth": "taught by depth",
    "all": "all labels",
    "no-teacher": "labels only, again: φ is learned meanwhile",
    "letter": "labels only, then half as many steps on Eq. 4 with depth",
    "letter-no-teacher": "labels only, then the same steps without a teacher",
}


@dataclass(frozen=True)
class Worth:
    """Measure the gain from depth on the source and on targets."""

    out: str = "runs/worth"
    real_hands: str = ""
    """Folder of the real photographs. Empty: they are omitted, unless already packed in --out."""
    count: int = 5000
    """Number of pairs in the source."""
    labels: int = 250
    """Number of pairs that have labels."""
    epochs: int = 10
    """Epochs of each training on the source, counted over all pairs."""
    batch: int = 32
    lr: float = 3e-3
    target_frames: int = 120
    target_epochs: int = 10
    target_lr: float = 1e-3
    """Learning rate on the target of rows that start at theta_0."""
    fine_tune_lr: float = 3e-4
    tries: tuple[float, ...] = (10.0, 100.0, 1000.0)
    """Strengths to try on the validation block for every tuned row, with each seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    again: int = 2
    """Number of trainings on the target from each source."""
    parts: tuple[str, ...] = (*SOURCE_LABELS, *TARGETS)
    """Source trainings and targets to run, in this order."""
    rows: tuple[str, ...] = ()
    """Run only these rows of a target. Empty: all rows."""
    net: Annotated[NetConfig, Flat] = field(default_factory=lambda: SLIM_NET)
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        expect_positive(self, "count", "labels", "epochs", "batch", "lr", "target_epochs", "again")
        expect_at_least_one(self, "tries", "parts")
        expect_different_seeds(self.seeds)
        if self.labels > self.count:
            raise InputError(f"--labels: expected at most --count, {self.count}, got {self.labels}")
        for part in self.parts:
            if part not in (*SOURCE_LABELS, *TARGETS):
                raise InputError(
                    f"--parts {part}: expected some of {', '.join((*SOURCE_LABELS, *TARGETS))}"
                )


def run(config: Worth) -> None:
    """Runs the requested parts; writes worth.json with all finished results."""
    out = Path(config.out)
    blocks = make_data(config, out / "data")
    for seed in config.seeds:
        home = out / f"source-{seed}"
        stages = source_stages(config, home, out / "data", seed)
        for part in config.parts:
            if part not in TARGETS:
                result = run_stage(stages[part])
                say(f"source {seed}, {part}: EPE {result['epe_mm']:.2f} mm")
            elif part in blocks:
                train_target(config, part, home, out / "data", blocks[part], seed)
    write_json(out / "worth.json", collect(config))


def make_data(config: Worth, data: Path) -> dict[str, Blocks]:
    """Renders the packed sets; returns {target: the blocks of its frames for tuning}."""
    px = pixels_to_store(config.net.px)
    scene = SceneConfig(px=px, views_deg=90.0)
    stage = render.Render(str(data / "source"), config.count, scene=scene)
    render.run(stage)
    render.run(
        replace(
            stage,
            out=str(data / "source-test"),
            count=max(config.count // 10, 1),
            first=10_000_000,
        )
    )
    frames = config.target_frames
    blocks = {"rendered": draw_sequences(replace(scene, seed=1), data / "rendered", frames, frames)}
    if config.real_hands:
        pack_folder(config.real_hands, data / "photographs", px)
    if (data / "photographs/target-test").exists():
        count = len(Packed(data / "photographs/target"))
        blocks["photographs"] = Blocks((0, count * 5 // 6), (count * 5 // 6, count))
    return blocks


# ---- source --------------------------------------------------------------------------------------
def source_stages(config: Worth, home: Path, data: Path, seed: int) -> dict[str, SourceStage]:
    """{row: its stage}; all see the same labeled samples and take the same number of steps."""
    expert = Expert(
        batch=config.batch,
        source_epochs=config.epochs,
        lr=config.lr,
        precision=config.precision,
    )
    experiment = Experiment(
        source_count=config.count,
        labels=config.labels,
        with_prior=True,
        seeds=(seed,),
        net=config.net,
        expert=expert,
    )
    stages = stages_of_run(experiment, home, data)
    for name in ("depth", "rgb", "shuffled"):  # the teacher sees the same augmented picture
        taught = stages[name]
        assert isinstance(taught, distill.Distill)
        stages[name] = replace(taught, cached=False)
    depth = stages["depth"]
    assert isinstance(depth, distill.Distill)
    letter = replace(
        depth,
        start="student",
        criterion=distill.CriterionConfig("paper"),
        phi=replace(depth.phi, inner_optimizer="sgd", alpha=distill.PHI.alpha),
        optim=replace(depth.optim, epochs=max(config.epochs // 2, 1)),
        out=str(home / "letter"),
    )
    without = replace(letter, use_teacher=False, out=str(home / "letter-no-teacher"))
    return stages | {"letter": letter, "letter-no-teacher": without}


# ---- targets -------------------------------------------------------------------------------------
def target_rows(home: Path) -> list[Row]:
    """The rows to train on a target."""

    def file(path: str) -> str:
        return str(home / f"{path}.safetensors")

    weights = {name: file(path) for name, path in UNTOUCHED.items()}
    taught = weights["depth"]
    phi = {
        "letter": ("φ by the letter", "letter/prior_p2", "letter-no-teacher/prior_p2"),
        "adam": ("φ from θ₀ on, Adam's inner step", "depth/prior_p2", "no-teacher/prior_p2"),
        "two": ("φ of two checkpoints from θ₀ on", "two-depth", "two-no-teacher"),
    }

    def around(name: str, label: str, prior: str = "", per_layer: bool = False) -> Row:
        """Starts at the depth-distilled weights and is regularized towards them."""
        return Row(
            name=name,
            label=f"taught by depth, {label} around it",
            start=taught,
            regulariser=Regulariser(
                prior=file(prior) if prior else "", centre=taught, per_layer=per_layer
            ),
            tuned=True,
        )

    def towards(name: str, label: str, centre: str, is_control: bool) -> Row:
        """Starts at theta_0 and is regularized towards other weights."""
        return Row(
            name=name,
            label=f"θ₀, ℓ² around the weights {label}",
            regulariser=Regulariser(centre=centre),
            tuned=True,
            is_control=is_control,
        )

    def function_space(name: str, weight: float) -> Row:
        return Row(
            name=name,
            label=f"taught by depth, function-space prior, {weight:g}",
            start=taught,
            regulariser=Regulariser(function_weight=weight),
        )

    rows = [
        Row(name="tuned-student", label="labels only, fine-tuned", start=weights["student"]),
        Row(
            name="tuned-rgb",
            label="taught by RGB, fine-tuned",
            start=weights["rgb"],
            is_control=True,
        ),
        Row(name="tuned-depth", label="taught by depth, fine-tuned", start=taught),
        Row(name="tuned-all", label="all labels, fine-tuned", start=weights["all"]),
        around("sp", "ℓ²"),
        around("sp-two", "φ of two checkpoints", "two-depth", per_layer=True),
        around("sp-adam", "φ of Adam's inner step", "depth/prior_p2", per_layer=True),
        function_space("function-03", 0.3),
        function_space("function-3", 3.0),
        around("sp-fisher", "Fisher information", "fisher"),
        around("sp-fisher-layers", "Fisher information per layer", "fisher", per_layer=True),
        towards("centred", "taught by depth", taught, is_control=False),
        towards("centred-rgb", "taught by RGB", weights["rgb"], is_control=True),
        towards("centred-labels", "of labels only", weights["student"], is_control=True),
        towards("centred-permuted", "taught by depth, permuted", file("permuted"), is_control=True),
        Row(name="none", label="θ₀"),
        Row(name="l2", label="θ₀, ℓ²", tuned=True),
    ]
    for name, (label, prior_file, without) in phi.items():
        prior = Regulariser(prior=file(prior_file), per_layer=True)
        rows += [
            Row(name=name, label=f"θ₀, {label}", regulariser=prior, tuned=True),
            Row(
                name=f"{name}-permuted",
                label=f"{label}, permuted",
                regulariser=replace(prior, permuted=True),
                tuned=True,
                is_control=True,
            ),
            Row(
                name=f"{name}-no-teacher",
                label=f"{label}, without a teacher",
                regulariser=replace(prior, prior=file(without)),
                tuned=True,
                is_control=True,
            ),
        ]
    return rows


def write_two_checkpoint_priors(home: Path) -> None:
    """Priors from theta_0 and the final weights, with and without teacher; permuted weights."""
    for name, end in (("two-depth", "depth/distilled"), ("two-no-teacher", "student/student")):
        path = home / f"{name}.safetensors"
        if not path.exists():
            net = FinishedRun(home / "student").load("theta_0")
            before = {key: parameter.detach().clone() for key, parameter in net.named_parameters()}
            load_weights(home / f"{end}.safetensors", net)
            learned = Prior.load(home / "depth/prior_p2.safetensors").manifest
            facts = {key: learned[key] for key in ("fingerprint", "architecture", "source")}
            Prior.from_checkpoints(before, dict(net.named_parameters()), 1e-3, facts).save(path)
    path = home / "permuted.safetensors"
    if not path.exists():
        weights = load_file(home / "depth/distilled.safetensors")
        permuted = Prior(
            {k: v for k, v in weights.items() if v.dim() >= 2 and "convention" not in k}
        ).permuted(0)
        whole = weights | {k: v.contiguous() for k, v in permuted.phi.items()}
        write_atomically(path, lambda partial: save_file(whole, partial))


def write_fisher_prior(config: Worth, home: Path, source: Path, seed: int) -> None:
    """The Fisher information of the labeled samples, around the depth-distilled weights."""
    path = home / "fisher.safetensors"
    if path.exists():
        return
    student = FinishedRun(home / "student")
    model = student.load("theta_0")
    load_weights(home / "depth/distilled.safetensors", model)
    data = source_stages(config, home, source.parent, seed)["depth"].source.open()
    samples = Loader(data, student.net.px).fetch(data.with_label)
    labelled = [(samples.picture("rgb"), samples.labels)]
    fisher(model, labelled, loss_of(student.net, data.first.bone_mm)).save(path)


def train_target(
    config: Worth, name: str, home: Path, data: Path, blocks: Blocks, seed: int
) -> None:
    """Runs all rows of a target from one source: untrained, then trained."""
    write_two_checkpoint_priors(home)
    write_fisher_prior(config, home, data / "source", seed)
    folders = Folders.of(data / name, home, data / "source")
    for untouched, weights in UNTOUCHED.items():
        if not (home / f"{weights}.safetensors").exists():  # from a part that was not requested
            continue
        evaluate.run(
            evaluate.Evaluate(
                weights=str(home / f"{weights}.safetensors"),
                data=folders.test,
                out=str(home / name / f"untouched-{untouched}"),
                student=folders.student,
                source=folders.source,
                convention=folders.data,
                test_time_rotations_deg=ROTATIONS,
                precision=config.precision,
            )
        )
    stage = target.Target(
        test_time_rotations_deg=ROTATIONS,
        augmentation=MILD_AUGMENTATION,
        optim=OptimConfig(
            config.target_epochs, config.batch, config.target_lr, "cosine", 0, config.precision
        ),
    )
    stage = with_folders(stage, folders)
    seeds = tuple(100 * seed + number for number in range(config.again))
    for row in select_rows(target_rows(home), config.rows, "--rows"):
        if any(not Path(file).exists() for file in row.files):
            continue  # from a part that was not requested
        lr = config.fine_tune_lr if row.start else config.target_lr
        shared = replace(stage, optim=replace(stage.optim, lr=lr, seed=seeds[0]))
        note = home / name / row.name / "diverged.json"
        if note.exists():
            continue
        try:
            errors = train_row(shared, row, home / name / row.name, blocks, seeds, config.tries)
        except Diverged as error:
            write_json(note, {"diverged": str(error)})
        else:
            say(f"source {seed}, {name}, {row.title}: {sum(errors) / len(errors):.2f} mm")


# ---- what came out -------------------------------------------------------------------------------
def collect(config: Worth) -> dict[str, Any]:
    """All finished results: {"cells": [{"target", "rows"}]}, the source first."""
    out = Path(config.out)
    homes = {seed: out / f"source-{seed}" for seed in config.seeds}
    cells = [{"target": "source", "rows": source_rows_of(homes)}]
    for target_name in TARGETS:
        rows = []
        for row in [
            *(
                Row(name=f"untouched-{name}", label=f"{SOURCE_LABELS[name]}, untouched")
                for name in UNTOUCHED
            ),
            *target_rows(Path()),
        ]:
            errors = [errors_of(home / target_name / row.name) for home in homes.values()]
            if all(errors):
                rows.append(describe_row(row.name, row.title, errors, homes, target_name))
        cells.append({"target": target_name, "rows": rows})
    return {
        "cells": [cell for cell in cells if cell["rows"]],
        "settings": settings_of(config),
        **describe_sessions_of(out),
    }


def describe_sessions_of(out: Path) -> dict[str, Any]:
    """Commits and machine of the source trainings of a study's folder."""
    files = sorted(out.rglob("environment.json"))
    sessions = [session for file in files for session in read_json(file)["sessions"]]
    last = max(sessions, key=lambda session: session["started"])
    commits = dict.fromkeys(session["commit"] for session in sessions)
    return {"commits": list(commits), "machine": last["machine"]}


def describe_row(
    name: str, label: str, found: list[list[float]], homes: dict[int, Path], target: str
) -> dict[str, Any]:
    """A row: per source, the mean over its trainings on the target; and the chosen strengths."""
    chosen = [
        read_sealed_json(path)["chosen"]
        for home in homes.values()
        if (path := home / target / name / "tried.json").exists()
    ]
    values = [sum(errors) / len(errors) for errors in found]
    row = {"name": name, "label": label, "epe_mm": spread(values), "trainings_mm": found}
    return row | ({"sigma": chosen} if chosen else {})


def errors_of(folder: Path) -> list[float]:
    """The EPE of each finished training of a row, mm."""
    folder = chosen_folder(folder)
    results = sorted(folder.glob("seed-*/result.json")) or sorted(folder.glob("result.json"))
    return [read_result(path)["epe_mm"] for path in results]


def source_rows_of(homes: dict[int, Path]) -> list[dict[str, Any]]:
    """The source's table."""
    rows = []
    for name, label in SOURCE_LABELS.items():
        errors = [errors_of(home / name) for home in homes.values()]
        if all(errors):
            rows.append(
                {
                    "name": name,
                    "label": label,
                    "epe_mm": spread([row_errors[0] for row_errors in errors]),
                }
            )
    return rows


if __name__ == "__main__":
    main(run, Worth)
