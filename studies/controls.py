"""What does the prior carry? More rows and seeds on the source stages of a finished `cmkg run`.

    python -m studies.controls --base runs/demo --out runs/study-rendered

The protocol, written before the runs, is docs/study.md. Everything is reused and resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import Tensor

from cmkg.families import fisher
from cmkg.hands.datasets.packed import Packed
from cmkg.hands.experiments.main import (
    Experiment,
    read_experiment,
    source_stages,
    target_rows,
    write_two_checkpoint_prior,
)
from cmkg.hands.experiments.rows import Folders, Row, select_rows
from cmkg.hands.network.pose import Pose
from cmkg.hands.network.pose_loss import PoseLoss
from cmkg.hands.stages import distill, source
from cmkg.hands.stages.fitting import Loader
from cmkg.hands.stages.networks import load_network
from cmkg.hands.stages.settings import Flat
from cmkg.runtime.checks import expect_positive
from cmkg.runtime.distributed import on_first_rank
from cmkg.runtime.files import load_weights
from cmkg.runtime.progress import say
from cmkg.runtime.runs import Run, replace_settings

from .base import (
    NO_TEACHER,
    OF_ADAM,
    WHOLE,
    Training,
    learned_phi,
    main,
    open_target,
    train_table,
    write_table,
)

FISHER_SAMPLES, FISHER_BATCH = 256, 32
FRESH_SEED = 77
LEFT_OUT = ("l2-paper", "l1-paper", "recipe")  # of the run's own table
# How else phi is learned: {name: settings of distill.Distill}.
LEARNED: dict[str, dict[str, Any]] = {
    "no-teacher": {"use_teacher": False},
    "split": {"split": True},
    "l3": {"inner_steps": 3},
    "all": {"phi_parameters": "all"},
}


@dataclass(frozen=True)
class Controls:
    """Settings of the controls of the prior."""

    base: str = "runs/demo"
    """Folder of a finished `cmkg run demo` or `real`: its source stages and, for a rendered target,
    its target sets."""
    out: str = "runs/study"
    target: Literal["rendered", "real hands"] = "rendered"
    real_hands: str = ""
    """Folder with the real photographs."""
    epochs: int = 10
    """Of each training on the target."""
    only: tuple[str, ...] = ()
    """Names of the rows to run; empty = all."""
    training: Annotated[Training, Flat] = field(
        default_factory=lambda: Training(seeds=(0, 1, 2, 3, 4))
    )

    def __post_init__(self) -> None:
        expect_positive(self, "epochs")


def run(config: Controls) -> None:
    """Learns what the rows need, trains them, and writes the table."""
    out, base = Path(config.out), Path(config.base)
    experiment = read_experiment(base)
    rows = select_rows(control_rows(base, out), config.only, "--only")
    with Run(out, config, "controls").claim():
        sets = open_target(config.target, config.real_hands, out, experiment)
        learn_others(base, out, experiment, rows)
        folders = Folders.of(sets.data, base)
        facts = {"target": config.target, "base": base.name}
        train_table(
            experiment, config.training, config.epochs, rows, out, folders, sets.blocks, facts
        )
        write_table(out)


# ---- rows ----------------------------------------------------------------------------------------
def control_rows(base: Path, out: Path) -> list[Row]:
    """The run's table and the study's rows; phi of other kinds lies in `out`."""
    phi = learned_phi(base, "distill")
    distilled = str(base / "distill/distilled.safetensors")
    early = str(out / "early/student.safetensors")

    def other(name: str) -> dict[str, str]:
        return {"prior": learned_phi(out, name)}

    def tuned(name: str, label: str, **changes: Any) -> Row:
        return Row(name, label, changes, tuned=True)

    def control(name: str, label: str, **changes: Any) -> Row:
        return Row(name, label, changes, tuned=True, is_control=True)

    whole = {"prior": str(out / WHOLE)}
    own = [row for row in target_rows(Experiment(), base) if row.name not in LEFT_OUT]
    return [
        *own,
        tuned("prior-decoupled", "prior, decoupled", prior=phi, coupled=False),
        control("prior-layer-mean", "layer mean of φ", prior=phi, layer_mean=True),
        control("prior-no-teacher", "φ learned without a teacher", **other("no-teacher")),
        tuned("prior-l3", "prior, l = 3 inner steps", **other("l3")),
        tuned("prior-split", "prior, split batches", **other("split")),
        tuned("prior-all", "prior on all parameters", **other("all")),
        tuned("prior-whole", "prior of two checkpoints, from θ₀ on", **whole),
        control(
            "prior-whole-permuted", "that of two checkpoints, permuted", **whole, permuted=True
        ),
        control(
            "prior-whole-layer-mean",
            "layer mean of that of two checkpoints",
            **whole,
            layer_mean=True,
        ),
        control(
            "prior-whole-no-teacher",
            "of two checkpoints without a teacher, from θ₀ on",
            prior=str(out / NO_TEACHER),
        ),
        tuned("prior-from-theta-0", "prior learned from θ₀ on, α / 16", **other("from-theta-0")),
        control(
            "prior-from-theta-0-permuted",
            "the learned one, permuted",
            **other("from-theta-0"),
            permuted=True,
        ),
        tuned("prior-adam", "prior learned from θ₀ on, by Adam's inner step", **other("adam")),
        control(
            "prior-adam-permuted",
            "that of Adam's inner step, permuted",
            **other("adam"),
            permuted=True,
        ),
        control(
            "prior-adam-layer-mean",
            "layer mean of that of Adam's inner step",
            **other("adam"),
            layer_mean=True,
        ),
        control(
            "prior-adam-no-teacher",
            "learned by Adam's inner step without a teacher",
            **other("adam-no-teacher"),
        ),
        control(
            "prior-adam-two-checkpoints",
            "of two checkpoints of the training with Adam's inner step",
            prior=str(out / OF_ADAM),
        ),
        control(
            "l2-to-distilled",
            "ℓ² around the distilled weights, from θ₀ (no φ)",
            centre=distilled,
        ),
        Row("fresh-none", "fresh θ₀, no regulariser", {"fresh": FRESH_SEED}),
        control("fresh-prior", "fresh θ₀, prior", prior=phi, fresh=FRESH_SEED),
        Row("early-none", "early source student, fine-tuned", {"start": early}),
        tuned("early-prior", "early source student, prior", prior=phi, start=early),
        tuned(
            "fisher-centred",
            "distilled student, Fisher around it (EWC)",
            prior=str(out / "fisher.safetensors"),
            start=distilled,
            centre=distilled,
        ),
    ]


# ---- what the rows need --------------------------------------------------------------------------
def learn_others(base: Path, out: Path, experiment: Experiment, rows: list[Row]) -> None:
    """phi learned in other ways, the Fisher information, an early student: what the rows need."""
    stages = source_stages(experiment, base)
    stage, student = stages["distill"], stages["student"]
    assert isinstance(stage, distill.Distill)
    assert isinstance(student, source.Source)
    expert = experiment.expert
    whole = {
        "start": "theta_0",
        "epochs": expert.student_epochs + expert.distill_epochs,
        "alpha": stage.phi.alpha / 16,
    }
    adam = whole | {"inner_optimizer": "adam", "alpha": 1e-3}
    used = {row.changes.get("prior") for row in rows}
    if str(out / OF_ADAM) in used:  # it is made from where that training ends
        used.add(learned_phi(out, "adam"))
    ways = LEARNED | {
        "from-theta-0": whole,
        "adam": adam,
        "adam-no-teacher": adam | {"use_teacher": False},
    }
    for name, changes in ways.items():
        if learned_phi(out, name) in used:
            say(f"phi: {name}")
            distill.run(replace_settings(stage, out=str(out / name), exponents=(2,), **changes))
    names = {row.name for row in rows}
    if names & {"early-none", "early-prior"}:
        source.run(replace_settings(student, out=str(out / "early"), epochs=1))
    ends = {
        WHOLE: base / "distill/distilled.safetensors",
        NO_TEACHER: base / "continued/student.safetensors",
        OF_ADAM: out / "adam/distilled.safetensors",
    }
    for name, end in ends.items():
        if str(out / name) in used:
            write = partial(write_two_checkpoint_prior, base, out / name, "theta_0", end)
            on_first_rank(write)
    path = out / "fisher.safetensors"
    if "fisher-centred" in names and not path.exists():
        write_fisher(base, path, experiment)


def write_fisher(base: Path, path: Path, experiment: Experiment) -> None:
    """The Fisher information at the distilled student, on the source's pictures.

    Its centre is given by the row, in the target's convention.
    """
    net, _ = load_network(base / "student", "rgb", "student")
    load_weights(base / "distill/distilled.safetensors", net)
    packed = Packed(base / "data/source")
    loss = PoseLoss(packed.bone_mm, heatmap_weight=0.0)

    def joints_loss(prediction: Pose, joints: Tensor) -> Tensor:
        return loss(Pose(prediction.joints), Pose(joints))

    prior = fisher(net, source_batches(packed, experiment.net.px), joints_loss)
    prior.centre = None
    prior.save(path)


def source_batches(packed: Packed, px: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (x, joints) of source pictures."""
    loader = Loader(packed, px)
    for first in range(0, min(FISHER_SAMPLES, len(packed)), FISHER_BATCH):
        batch = loader.fetch(range(first, min(first + FISHER_BATCH, len(packed))))
        yield batch.picture("rgb"), batch.joints


if __name__ == "__main__":
    main(run, Controls)
