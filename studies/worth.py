"""What is depth worth where labels are few, and what brings it to a target that has none?

    python -m studies.worth --out runs/worth --real-hands folder

The protocol is docs/study.md. Each seed draws anew which samples have labels, theta_0 and the
order, trains the whole source, and then the targets: the spread is that of all but the pictures.
Everything is reused and resumed; --seeds and --parts let several processes share the work.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from safetensors.torch import load_file, save_file

from cmkg.errors import Diverged, InputError
from cmkg.families import fisher
from cmkg.hands.datasets.packed import Packed
from cmkg.hands.datasets.sample import pixels_to_store
from cmkg.hands.experiments.main import (
    MILD_AUGMENTATION,
    SLIM_NET,
    UNTOUCHED,
    Experiment,
    Expert,
    draw_sequences,
    pack_folder,
    with_folders,
)
from cmkg.hands.experiments.main import source_stages as stages_of_run
from cmkg.hands.experiments.rows import (
    Blocks,
    Folders,
    Row,
    SourceStage,
    run_stage,
    select_rows,
    train_row,
)
from cmkg.hands.network.pose_loss import loss_of
from cmkg.hands.network.posenet import NetConfig
from cmkg.hands.rendering.scenes import SceneConfig
from cmkg.hands.report.collect import chosen_folder, spread
from cmkg.hands.stages import distill, evaluate, render, target
from cmkg.hands.stages.fitting import Loader, labelled_numbers
from cmkg.hands.stages.settings import Flat, OptimConfig
from cmkg.low_rank import LowRankPrior
from cmkg.prior import Prior
from cmkg.runtime.checks import expect_at_least_one, expect_different_seeds, expect_positive
from cmkg.runtime.distributed import Precision
from cmkg.runtime.files import read_json, read_sealed_json, write_atomically, write_json
from cmkg.runtime.progress import say
from cmkg.runtime.run_files import read_result
from cmkg.runtime.settings import replace_settings, settings_of
from cmkg.runtime.weight_files import load_weights

from .base import main

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
    "trajectory": "taught by depth, then on at a constant rate: a trajectory of weights",
}
SNAPSHOTS = 20  # of the trajectory


@dataclass(frozen=True)
class Worth:
    """Settings of the study."""

    out: str = "runs/worth"
    real_hands: str = ""
    """Folder with the real photographs; empty leaves them out, unless --out has them packed."""
    count: int = 5000
    """Pairs of the source."""
    labels: int = 250
    """So many of them have labels."""
    epochs: int = 10
    """Of each training on the source, in passes over all pairs."""
    batch: int = 32
    lr: float = 3e-3
    target_frames: int = 120
    target_epochs: int = 10
    target_lr: float = 1e-3
    """From theta_0."""
    fine_tune_lr: float = 3e-4
    tries: tuple[float, ...] = (10.0, 100.0, 1000.0)
    """Strengths tried on the validation block for every tuned row, with each seed."""
    seeds: tuple[int, ...] = (0, 1, 2)
    again: int = 2
    """Trainings on the target from each source."""
    parts: tuple[str, ...] = (*SOURCE_LABELS, *TARGETS)
    """Trainings of the source, and targets, in their order."""
    rows: tuple[str, ...] = ()
    """Only these rows of a target; empty = all."""
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
    """Does the parts that were asked for; writes worth.json of whatever is finished."""
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
    """Draws the packed sets; {target: the blocks of its frames for tuning}."""
    px = pixels_to_store(config.net.px)
    scene = SceneConfig(px=px, views_deg=90.0)
    stage = render.Render(str(data / "source"), config.count, scene=scene)
    test = replace_settings(stage, out=str(data / "source-test"), first=10_000_000)
    render.run(stage)
    render.run(replace_settings(test, count=max(config.count // 10, 1)))
    frames = config.target_frames
    drawn = draw_sequences(replace_settings(stage, seed=1), data / "rendered", frames, frames)
    blocks = {"rendered": drawn}
    if config.real_hands:
        pack_folder(config.real_hands, data / "photographs", px)
    if (data / "photographs/target-test").exists():
        count = len(Packed(data / "photographs/target"))
        blocks["photographs"] = Blocks((0, count * 5 // 6), (count * 5 // 6, count))
    return blocks


# ---- source --------------------------------------------------------------------------------------
def source_stages(config: Worth, home: Path, data: Path, seed: int) -> dict[str, SourceStage]:
    """{row: its stage}; all see the same labelled samples, and take as many steps."""
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
    for name in ("depth", "rgb", "shuffled"):  # the teacher sees the very picture that is learned
        stages[name] = replace_settings(stages[name], cached=False)
    letter = replace_settings(
        stages["depth"],
        start="student",
        criterion=distill.Criterion("paper"),
        inner_optimizer="sgd",
        alpha=distill.PhiConfig().alpha,
        epochs=max(config.epochs // 2, 1),
        out=str(home / "letter"),
    )
    without = replace_settings(letter, use_teacher=False, out=str(home / "letter-no-teacher"))
    epochs = max(config.epochs // 5, 1)
    steps = epochs * (config.count // config.batch)
    trajectory = replace_settings(
        stages["depth"],
        start=str(home / "depth/distilled.safetensors"),
        exponents=(),
        epochs=epochs,
        lr=config.fine_tune_lr,
        schedule="constant",
        snapshots=min(SNAPSHOTS, steps),
        out=str(home / "trajectory"),
    )
    return stages | {"letter": letter, "letter-no-teacher": without, "trajectory": trajectory}


# ---- targets -------------------------------------------------------------------------------------
def target_rows(home: Path) -> list[Row]:
    """What is trained on a target."""

    def file(path: str) -> str:
        return str(home / f"{path}.safetensors")

    weights = {name: file(path) for name, path in UNTOUCHED.items()}
    taught = weights["depth"]
    around = {"start": taught, "centre": taught}
    phi = {
        "letter": ("φ by the letter", "letter/prior_p2", "letter-no-teacher/prior_p2"),
        "adam": ("φ from θ₀ on, Adam's inner step", "depth/prior_p2", "no-teacher/prior_p2"),
        "two": ("φ of two checkpoints from θ₀ on", "two-depth", "two-no-teacher"),
    }
    rows = [
        Row("tuned-student", "labels only, fine-tuned", {"start": weights["student"]}),
        Row("tuned-rgb", "taught by RGB, fine-tuned", {"start": weights["rgb"]}, False, True),
        Row("tuned-depth", "taught by depth, fine-tuned", {"start": taught}),
        Row("tuned-all", "all labels, fine-tuned", {"start": weights["all"]}),
        Row("sp", "taught by depth, ℓ² around it", around, tuned=True),
        Row(
            "sp-two",
            "taught by depth, φ of two checkpoints around it",
            around | {"prior": file("two-depth"), "per_layer": True},
            tuned=True,
        ),
        Row(
            "sp-adam",
            "taught by depth, φ of Adam's inner step around it",
            around | {"prior": file("depth/prior_p2"), "per_layer": True},
            tuned=True,
        ),
        Row(
            "function-03",
            "taught by depth, function-space prior, 0.3",
            {"start": taught, "function_weight": 0.3},
        ),
        Row(
            "function-3",
            "taught by depth, function-space prior, 3",
            {"start": taught, "function_weight": 3.0},
        ),
        Row(
            "sp-fisher",
            "taught by depth, Fisher information around it",
            around | {"prior": file("fisher")},
            tuned=True,
        ),
        Row(
            "sp-fisher-layers",
            "taught by depth, Fisher information around it, per layer",
            around | {"prior": file("fisher"), "per_layer": True},
            tuned=True,
        ),
        Row(
            "sp-low-rank",
            "taught by depth, low rank + diagonal around its trajectory",
            {"start": taught, "low_rank": file("low-rank")},
            tuned=True,
        ),
        Row(
            "sp-bound",
            "taught by depth, ℓ² around it, strength by the evidence's bound",
            around | {"evidence": "bound"},
        ),
        Row(
            "sp-emphasised",
            "taught by depth, ℓ² around it, strength by the bound with the data emphasised",
            around | {"evidence": "emphasised"},
        ),
    ]
    around_label = "θ₀, ℓ² around the weights"
    rows += [
        Row("centred", f"{around_label} taught by depth", {"centre": taught}, True),
        Row("centred-rgb", f"{around_label} taught by RGB", {"centre": weights["rgb"]}, True, True),
        Row(
            "centred-labels",
            f"{around_label} of labels only",
            {"centre": weights["student"]},
            True,
            True,
        ),
        Row(
            "centred-permuted",
            f"{around_label}, permuted",
            {"centre": file("permuted")},
            True,
            True,
        ),
    ]
    rows += [Row("none", "θ₀"), Row("l2", "θ₀, ℓ²", tuned=True)]
    for name, (label, own, without) in phi.items():
        has = {"prior": file(own), "per_layer": True}
        rows += [
            Row(name, f"θ₀, {label}", has, tuned=True),
            Row(f"{name}-permuted", f"{label}, permuted", has | {"permuted": True}, True, True),
            Row(
                f"{name}-no-teacher",
                f"{label}, without a teacher",
                has | {"prior": file(without)},
                True,
                True,
            ),
        ]
    return rows


def write_two_checkpoint_priors(home: Path) -> None:
    """phi of theta_0 and the end of a training, with and without the teacher; permuted weights."""
    from cmkg.hands.stages.networks import load_network

    for name, end in (("two-depth", "depth/distilled"), ("two-no-teacher", "student/student")):
        path = home / f"{name}.safetensors"
        if not path.exists():
            net, _ = load_network(home / "student", "rgb", "theta_0")
            before = {key: one.detach().clone() for key, one in net.named_parameters()}
            load_weights(home / f"{end}.safetensors", net)
            learned = Prior.load(home / "depth/prior_p2.safetensors").manifest
            facts = {key: learned[key] for key in ("fingerprint", "architecture", "source")}
            Prior.from_checkpoints(before, dict(net.named_parameters()), 1e-3, facts).save(path)
    path = home / "permuted.safetensors"
    if not path.exists():
        held = load_file(home / "depth/distilled.safetensors")
        permuted = Prior(
            {k: v for k, v in held.items() if v.dim() >= 2 and "convention" not in k}
        ).permuted(0)
        whole = held | {k: v.contiguous() for k, v in permuted.phi.items()}
        write_atomically(path, lambda partial: save_file(whole, partial))


def write_priors_around(config: Worth, home: Path, source: Path, seed: int) -> None:
    """What holds the depth-taught weights: their Fisher information, and their trajectory."""
    from cmkg.hands.stages.networks import load_network

    net = load_network(home / "student", "rgb", "theta_0")
    load_weights(home / "depth/distilled.safetensors", net.model)
    path = home / "fisher.safetensors"
    if not path.exists():
        packed = Packed(source)
        stage = source_stages(config, home, source.parent, seed)["depth"]
        numbers = labelled_numbers(stage.source, packed)
        assert numbers is not None
        samples = Loader(packed, net.net.px).fetch(numbers)
        labelled = [(samples.picture("rgb"), samples.labels)]
        fisher(net.model, labelled, loss_of(net.net, packed.bone_mm)).save(path)
    path = home / "low-rank.safetensors"
    snapshots = sorted((home / "trajectory/trajectory").glob("*.safetensors"))
    if not path.exists() and snapshots:
        weights = [load_file(one) for one in snapshots]
        LowRankPrior.from_trajectory(weights, SNAPSHOTS, model=net.model).save(path)


def train_target(
    config: Worth, name: str, home: Path, data: Path, blocks: Blocks, seed: int
) -> None:
    """All rows of a target from one source: untouched, then trained."""
    write_two_checkpoint_priors(home)
    write_priors_around(config, home, data / "source", seed)
    folders = Folders.of(data / name, home, data / "source")
    for untouched, weights in UNTOUCHED.items():
        if not (home / f"{weights}.safetensors").exists():  # a part that was not asked for
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
        files = [row.changes.get(key, "") for key in ("start", "centre", "prior", "low_rank")]
        if any(file and not Path(file).exists() for file in files):
            continue  # of a part that was not asked for
        lr = config.fine_tune_lr if "start" in row.changes else config.target_lr
        own = replace_settings(stage, lr=lr, seed=seeds[0])
        note = home / name / row.name / "diverged.json"
        if note.exists():
            continue
        try:
            errors = train_row(own, row, home / name / row.name, blocks, seeds, config.tries)
        except Diverged as error:
            write_json(note, {"diverged": str(error)})
        else:
            say(f"source {seed}, {name}, {row.title}: {sum(errors) / len(errors):.2f} mm")


# ---- what came out -------------------------------------------------------------------------------
def collect(config: Worth) -> dict[str, Any]:
    """Everything that is finished: {"cells": [{"target", "rows"}]}, the source first."""
    out = Path(config.out)
    homes = {seed: out / f"source-{seed}" for seed in config.seeds}
    cells = [{"target": "source", "rows": source_rows_of(homes)}]
    for name in TARGETS:
        rows = []
        for row in [
            *(Row(f"untouched-{one}", f"{SOURCE_LABELS[one]}, untouched") for one in UNTOUCHED),
            *target_rows(Path()),
        ]:
            found = [errors_of(home / name / row.name) for home in homes.values()]
            if all(found):
                rows.append(describe_row(row.name, row.title, found, homes, name))
        cells.append({"target": name, "rows": rows})
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
    """A row: one value a source, the mean of its trainings on the target; the strengths chosen."""
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
        found = [errors_of(home / name) for home in homes.values()]
        if all(found):
            rows.append({"name": name, "label": label, "epe_mm": spread([one[0] for one in found])})
    return rows


if __name__ == "__main__":
    main(run, Worth)
