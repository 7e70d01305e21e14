"""`cmkg run study`: what does the prior carry? More rows and seeds on the source stages of a
finished `cmkg run`.

The protocol, written before the runs, is docs/study.md. Everything is reused and resumed as in
`experiment`.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from .. import engine
from ..errors import InputError
from ..families import fisher
from ..hands.augment import Augmentation
from ..hands.datasets.packed import Packed, pack
from ..hands.datasets.real_hands import RealHands
from . import distill, experiment, lookalikes, render, student
from .common import at_least_one, channels_last, fetch, labels, loss_cm, positive, seeds_from_zero


@dataclass(frozen=True)
class Study:
    base: str = "runs/demo"
    """Folder of a finished `cmkg run demo` or `real`: its source stages and, for a rendered
    target, its target sets."""
    out: str = "runs/study"
    target: Literal["rendered", "real hands"] = "rendered"
    real_hands: str = ""
    """Folder with the real photographs."""
    part: Literal["controls", "ingredients"] = "controls"
    """controls: of the prior. ingredients: of the best row."""
    epochs: int = 10
    """Of each training on the target."""
    long_epochs: int = 30
    """Of the ingredients' longer trainings, at LONG_LR."""
    lookalikes: int = 4000
    """Rendered look-alikes of the target, among the ingredients."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tries: tuple[float, ...] = (1.0, 10.0, 100.0)
    """Strengths tried for every tuned row on the validation block; p = 1 tries a tenth of each."""
    only: tuple[str, ...] = ()
    """Names of the rows to run; empty = all."""
    precision: engine.Precision = "auto"
    augmentation: Augmentation = experiment.TARGET_AUGMENTATION

    def __post_init__(self):
        positive(self, "epochs", "long_epochs", "lookalikes")
        at_least_one(self, "tries")
        seeds_from_zero(self.seeds)


PRESETS = {
    "study": ("The controls of docs/study.md, on a finished run's source.", Study()),
    "ingredients": (
        "What each ingredient of the best row brings, on a finished run's source.",
        Study(out="runs/ingredients", part="ingredients", seeds=(0, 1, 2)),
    ),
}
LONG_LR = 1e-3
# phi of two checkpoints, from theta_0 on: to the distilled student, to the one without a teacher,
# to the end of the training with Adam's inner step.
WHOLE, NO_TEACHER, OF_ADAM = (
    f"prior_from_theta_0{end}.safetensors" for end in ("", "_no_teacher", "_of_adam")
)
# How else phi is learned: {name: settings of distill.Distill}.
LEARNED = {
    "no-teacher": {"no_teacher": True},
    "split": {"split": True},
    "l3": {"inner_steps": 3},
    "all": {"phi_parameters": "all"},
}


def run(config: Study):
    out, base = Path(config.out), Path(config.base)
    engine.Run(out, config)
    settings = experiment.Experiment(**saved(base))
    data, blocks = targets(config, base, settings)
    known = (
        rows(base, out) if config.part == "controls" else ingredients(config, base, out, settings)
    )
    plan = chosen(known, config.only or tuple(known), "--only")
    if config.part == "controls":
        learn_others(base, out, settings, plan)
    elif plan.keys() & {"long-likes", "long-distilled"}:
        lookalikes.run(
            lookalikes.LookAlike(
                data=str(data / "target"),
                out=str(out / "data/lookalikes"),
                count=config.lookalikes,
                views_deg=settings.views_deg,
                seed=settings.seeds[0],
            )
        )
    if "longer-source" in plan:
        train_source_on(base, out, settings, len(Packed(data / "target")))
    folders = {
        "data": str(data / "target"),
        "test": str(data / "target-test"),
        "student": str(base / "student"),
        "source": str(base / "data/source"),
    }
    run_rows(
        shared(settings, config, out, config.epochs),
        out,
        plan,
        blocks,
        folders,
        {"target": config.target, "base": base.name},
    )


def chosen(known, names, flag):
    """The rows of these names, in the table's order. Raises InputError naming one that is not
    known."""
    if missing := [n for n in names if n not in known]:
        raise InputError(f"{flag} {missing[0]}: no such row; expected some of {', '.join(known)}")
    return {n: r for n, r in known.items() if n in names}


def shared(settings, config, out, epochs):
    """Settings of the base run, for this study's trainings on the target."""
    return replace(
        settings,
        out=str(out),
        target_epochs=epochs,
        seeds=config.seeds,
        tries=config.tries,
        precision=config.precision,
        augmentation=config.augmentation,
    )


def run_rows(config, out, plan, blocks, folders, facts):
    """Every row of `plan`, in the folder `out`, and their table, study.md and study.json.
    config: an Experiment's settings."""
    from ..report import study

    for number, (name, row) in enumerate(plan.items(), 1):
        engine.say(f"{out.name}: row {number} of {len(plan)}: {row['label']}")
        if "home" not in row:
            run_or_diverge(config, out, row | {"name": name}, blocks, folders)
    held = {
        "rows": [
            {k: r[k] for k in ("label", "home") if k in r} | {"name": n} for n, r in plan.items()
        ],
        "epochs": config.target_epochs,
        "seeds": list(config.seeds),
        "tries": list(config.tries),
    }
    engine.write_json(out / "study_rows.json", held | facts)
    if (out / "environment.json").exists():  # else it is one of several, see write_cells
        engine.on_first_rank(lambda: study.write(out))
        engine.say(f"{out}/study.md, study.svg and study.json are written")


def run_or_diverge(config, out, row, blocks, folders):
    """The row; one that diverges at every strength is noted as such, and the study goes on."""
    note = out / "target" / row["name"] / "diverged.json"
    if note.exists():
        return
    try:
        experiment.run_row(config, out, row, blocks, folders)
    except InputError as error:
        if "diverged at every strength" not in str(error):
            raise
        engine.write_json(note, {"diverged": str(error)})


def saved(base):
    """The settings of the run in `base`, without its folder."""
    held = engine.read_json(base / "config.json")
    held["augmentation"] = Augmentation(**held["augmentation"])
    return held | {k: tuple(held[k]) for k in ("seeds", "tries", "turns_deg")} | {"out": str(base)}


def targets(config, base, settings):
    """Folder of the target's packed sets, and the blocks of frames for tuning."""
    data, n = Path(config.out) / "data", settings.target_frames
    if config.target == settings.target == "rendered":
        return base / "data", experiment.tuning_blocks(4 * n)
    if config.target == "rendered":
        stage = render.Render(
            px=experiment.stored_px(settings.px),
            seed=settings.seeds[0] + 1,
            backgrounds=settings.backgrounds,
        )
        return data, experiment.draw_sequences(stage, data, n, n)
    for name, block in (("target", "train"), ("target-test", "test")):
        pack(
            RealHands(
                config.real_hands, block, Packed(base / "data/source").meta["arrays"]["rgb"][0][1]
            ),
            data / name,
            workers=1,
        )
    return data, {"fit": (0, 300), "validation": (300, 360)}


def learned_phi(out, name):
    """File of the phi, p = 2, that a distillation in the folder `out` has learned."""
    return str(out / name / "prior_p2.safetensors")


def learn_others(base, out, settings, rows):
    """What `rows` need: phi learned in other ways, the Fisher information at the distilled
    student, an early student."""
    stage = experiment.source_stages(settings, base)["distill"]
    whole = {
        "start": "theta_0",
        "epochs": settings.student_epochs + settings.distill_epochs,
        "alpha": stage.alpha / 16,
    }
    adam = whole | {"inner_optimizer": "adam", "alpha": 1e-3}
    used = {row["settings"].get("prior") for row in rows.values()}
    if str(out / OF_ADAM) in used:  # it is made from where that training ends
        used.add(learned_phi(out, "adam"))
    for name, changes in (
        LEARNED
        | {"from-theta-0": whole, "adam": adam, "adam-no-teacher": adam | {"no_teacher": True}}
    ).items():
        if learned_phi(out, name) not in used:
            continue
        engine.say(f"phi: {name}")
        distill.run(replace(stage, out=str(out / name), exponents=(2,), **changes))
    if rows.keys() & {"early-none", "early-prior"}:
        student.run(
            replace(
                experiment.source_stages(settings, base)["student"],
                out=str(out / "early"),
                epochs=1,
            )
        )
    for name, end in (
        (WHOLE, base / "distill/distilled"),
        (NO_TEACHER, base / "continued/student"),
        (OF_ADAM, out / "adam/distilled"),
    ):
        if str(out / name) in used:
            # noqa: B023 - called at once
            weights = end.with_suffix(".safetensors")
            engine.on_first_rank(
                partial(experiment.two_checkpoints, base, out / name, "theta_0", weights)
            )
    path = out / "fisher.safetensors"
    if "fisher-centred" in rows and not path.exists():
        net = engine.load_weights(
            base / "distill/distilled.safetensors", distill.build(base / "student", 3, "student")[0]
        )
        prior = fisher(net, pictures(Packed(base / "data/source"), settings), unweighted(base))
        prior.centre = None  # the row gives it, in the target's convention
        prior.save(path)


def train_source_on(base, out, settings, frames):
    """The recipe's control: the source student, trained on its source for as many steps as the
    recipe takes in all, its pictures augmented as the recipe augments those alongside."""
    steps = settings.long_epochs * (frames // settings.batch) + settings.wide_epochs * (
        settings.wide_count // settings.batch
    )
    stage = experiment.source_stages(settings, base)["continued"]
    student.run(
        replace(
            stage,
            start=str(base / "continued/student.safetensors"),
            out=str(out / "source-for-longer"),
            lr=settings.long_lr,
            augmentation=settings.augmentation,
            epochs=max(1, round(steps / (settings.source_count // settings.batch))),
        )
    )


def pictures(packed, settings, count=256):
    """Batches (x, y) of source pictures, for the Fisher information."""
    for first in range(0, min(count, len(packed)), 32):
        batch = fetch(packed, range(first, min(first + 32, len(packed))), settings.px, "cpu")
        yield channels_last(batch["rgb"]), labels(batch)


def unweighted(base):
    loss = loss_cm(Packed(base / "data/source"), 0.0)
    return lambda prediction, y: loss(prediction[..., :3], y)


def rows(base, out):
    """{name: label, settings of target.Target, whether sigma is tuned}: the table's rows and the
    study's."""

    def row(label, tuned=True, **settings):
        return {
            "label": label,
            "tuned": tuned,
            "settings": settings,
        }

    phi, other = learned_phi(base, "distill"), lambda name: learned_phi(out, name)
    distilled, early = (
        str(base / "distill/distilled.safetensors"),
        str(out / "early/student.safetensors"),
    )
    left_out = ("l2-paper", "l1-paper", "recipe")
    known = {
        n: r for n, r in experiment.rows(experiment.Experiment(), base).items() if n not in left_out
    }
    return known | {
        "prior-decoupled": row("prior, decoupled", prior=phi, coupled=False),
        "prior-layer-mean": row("control: layer mean of φ", prior=phi, layer_mean=True),
        "prior-no-teacher": row("control: φ learned without a teacher", prior=other("no-teacher")),
        "prior-l3": row("prior, l = 3 inner steps", prior=other("l3")),
        "prior-split": row("prior, split batches", prior=other("split")),
        "prior-all": row("prior on all parameters", prior=other("all")),
        "prior-whole": row("prior of two checkpoints, from θ₀ on", prior=str(out / WHOLE)),
        "prior-whole-permuted": row(
            "control: that of two checkpoints, permuted", prior=str(out / WHOLE), permuted=True
        ),
        "prior-whole-layer-mean": row(
            "control: layer mean of that of two checkpoints",
            prior=str(out / WHOLE),
            layer_mean=True,
        ),
        "prior-whole-no-teacher": row(
            "control: of two checkpoints without a teacher, from θ₀ on", prior=str(out / NO_TEACHER)
        ),
        "prior-from-theta-0": row("prior learned from θ₀ on, α / 16", prior=other("from-theta-0")),
        "prior-from-theta-0-permuted": row(
            "control: the learned one, permuted", prior=other("from-theta-0"), permuted=True
        ),
        "prior-adam": row("prior learned from θ₀ on, by Adam's inner step", prior=other("adam")),
        "prior-adam-permuted": row(
            "control: that of Adam's inner step, permuted", prior=other("adam"), permuted=True
        ),
        "prior-adam-layer-mean": row(
            "control: layer mean of that of Adam's inner step", prior=other("adam"), layer_mean=True
        ),
        "prior-adam-no-teacher": row(
            "control: learned by Adam's inner step without a teacher",
            prior=other("adam-no-teacher"),
        ),
        "prior-adam-two-checkpoints": row(
            "control: of two checkpoints of the training with Adam's inner step",
            prior=str(out / OF_ADAM),
        ),
        "l2-to-distilled": row(
            "control: ℓ² around the distilled weights, from θ₀ (no φ)", centre=distilled
        ),
        "fresh-none": row("fresh θ₀, no regulariser", False, fresh=77),
        "fresh-prior": row("control: fresh θ₀, prior", prior=phi, fresh=77),
        "early-none": row("early source student, fine-tuned", False, start=early),
        "early-prior": row("early source student, prior", prior=phi, start=early),
        "fisher-centred": row(
            "distilled student, Fisher around it (EWC)",
            prior=str(out / "fisher.safetensors"),
            start=distilled,
            centre=distilled,
        ),
    }


def ingredients(config, base, out, settings):
    """The recipe of `cmkg run`, one ingredient at a time: what each brings beside plain fine-
    tuning."""

    def row(label, **settings):
        return {"label": label, "tuned": False, "settings": settings}

    scale, long = {"scale": "set"}, {"epochs": config.long_epochs, "lr": LONG_LR}
    source, likes = (
        {"alongside": str(base / "data/source")},
        {"alongside": str(out / "data/lookalikes")},
    )
    # the run has trained its recipe already
    own = {"home": str(base)} if settings.seeds == config.seeds else {}
    student, distilled = (
        {"start": str(base / "continued/student.safetensors")},
        {"start": str(base / "distill/distilled.safetensors")},
    )
    wide = (
        {
            "wide": row(
                "+ one person's scale, the student of the wide rendering",
                start=str(base / "wide/student.safetensors"),
                **scale,
            )
        }
        if settings.wide_count
        else {}
    )
    return (
        {
            "fine-tune-student": row("fine-tuned source student", **student),
            "scale": row("+ one person's scale", **student, **scale),
            "long": row("+ for longer", **student, **scale, **long),
            "long-source": row(
                "+ for longer, the source alongside", **student, **scale, **source, **long
            ),
            "long-likes": row(
                "+ for longer, look-alikes alongside", **student, **scale, **likes, **long
            ),
            "long-distilled": row(
                "+ for longer, look-alikes alongside, from the distilled student",
                **distilled,
                **scale,
                **likes,
                **long,
            ),
            "long-frame": row("for longer alone, each frame's scale", **student, **long),
        }
        | wide
        | {
            "recipe": row(
                "the recipe: one person's scale, "
                f"{'the wide rendering first and' if wide else 'the source'} alongside, for "
                "much longer",
                **experiment.recipe(settings, base),
            )
            | own,
            "longer-source": row(
                "control: its steps on the source alone, then fine-tuned with one person's scale",
                start=str(out / "source-for-longer/student.safetensors"),
                **scale,
            ),
        }
    )


def write_cells(out, names):
    """The table over several small studies, cells.md and cells.json, from what stands in their
    folders."""
    from ..report import study

    engine.on_first_rank(lambda: study.write_cells(out, names))
    engine.say(f"{out}/cells.md and cells.json are written")
