"""`cmkg distill`: the second half of the student's training, on G = L_REG + L_DIST (Eqs. 4 and
8), while the prior phi is meta-learned (Algorithm 3). theta's path does not depend on phi, so
p = 1 and p = 2 are learned side by side."""

from dataclasses import dataclass, field
from typing import Literal

import torch

from .. import engine
from ..cards import ABOUT_PRIOR, prior_facts, write_card
from ..engine import Precision
from ..features import FeatureTap
from ..hands.augment import Augmentation
from ..hands.datasets.packed import Packed, opened
from ..hands.model import pose_net
from ..prior import Prior, fingerprint
from ..steps import distil_step, meta_step
from ..training import halves
from .common import (
    LOSS_UNIT,
    channels_last,
    finish_student,
    from_zero,
    labels,
    loss_cm,
    positive,
    predict,
    save_predictions,
    score,
    set_lr,
    training_batches,
)


@dataclass(frozen=True)
class Distill:
    data: str = "data/source"
    extra: str = ""
    """Packed set mixed into `data`, its joints in the convention of `data`: the paper's
    synthetic augmentation."""
    test: str = "data/source-test"
    student: str = "runs/student"
    """Folder of a finished student run."""
    start: Literal["student", "theta_0"] = "student"
    """Its weights to start from: trained, or theta_0, so that phi sees the whole way (it takes
    as many epochs more)."""
    teacher: str = "runs/teacher"
    """Folder of a finished teacher run."""
    out: str = "runs/distill"
    epochs: int = 100
    batch: int = 32
    lr: float = 2.5e-4
    schedule: Literal["constant", "cosine"] = "constant"
    """The paper's is constant."""
    attention_weight: float = 1e3
    """lambda of Eq. 4; 0 leaves L_ACT alone."""
    exponents: tuple[Literal[1, 2], ...] = (1, 2)
    """p of the priors to learn; empty = distillation alone."""
    alpha: float = 5e-5
    """Rate of the inner step. The paper's 2.5e-4 is in its own unit; here it nears divergence.
    With adam: in parts of Adam's own rate."""
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd: the paper's. adam: the inner step is alpha of the step that Adam takes, weight by
    weight."""
    beta: float = 1e-3
    """phi's step."""
    phi_parameters: Literal["weights", "all"] = "weights"
    """Which parameters carry phi."""
    no_teacher: bool = False
    """Control: G = L_REG, for theta and for phi alike."""
    split: bool = False
    """The first half of each batch is the inner step's, the second G's; False is the paper's
    same batch."""
    inner_steps: int = 1
    """l of Algorithm 1."""
    seed: int = 0
    precision: Precision = "auto"
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self):
        positive(self, "epochs", "batch", "lr", "alpha", "beta", "inner_steps")
        from_zero(self, "attention_weight")


def build(folder, in_channels, name):
    """The network of a finished teacher or student run, with its weights, and its settings."""
    settings = engine.read_json(f"{folder}/config.json")
    model = pose_net(
        settings["backbone"],
        settings["width"],
        in_channels,
        head=settings["head"],
        stem_stride=settings["stem_stride"],
    )
    return engine.load_weights(f"{folder}/{name}.safetensors", model), settings


def new_priors(model, config, theta_0):
    """phi_0 = 0 for each exponent; the manifest says how it is learned."""
    facts = {
        "alpha": config.alpha,
        "beta": config.beta,
        "loss_units": LOSS_UNIT,
        "inner_optimizer": config.inner_optimizer,
        "source": config.data,
        "teacher": config.teacher,
        "attention_weight": config.attention_weight,
        "fingerprint": fingerprint(theta_0),
    }
    return [
        Prior.constant(model, 0.0, p, config.phi_parameters, **facts).track_noise()
        for p in config.exponents
    ]


def run(config: Distill):
    run = engine.Run(config.out, config)
    if run.result:
        return run.result
    fabric, packed, test = (
        engine.launch(config.precision),
        opened(config.data, config.extra),
        Packed(config.test),
    )
    student, settings = build(config.student, 3, config.start)
    theta_0, _ = build(config.student, 3, "theta_0")
    teacher = build(config.teacher, 1, "teacher")[0].to(fabric.device).requires_grad_(False)
    student, px = engine.placed(student, fabric), settings["px"]
    tap, teacher_tap = (
        FeatureTap(student, student.feature_layers),
        FeatureTap(teacher, teacher.feature_layers),
    )
    optimizer = torch.optim.Adam(student.parameters(), config.lr)
    priors = new_priors(student, config, theta_0)
    state = (
        {"model": student, "optimizer": optimizer}
        | {f"phi_{q.p}": q.phi for q in priors}
        | {f"noise_{q.p}": q.noise for q in priors}
    )
    shared = {
        "loss": loss_cm(packed, settings["heatmap_weight"]),
        "attention_weight": config.attention_weight,
        "context": fabric.autocast,
        "average": engine.averaged(fabric),
    }
    for step, total, batch, log in training_batches(
        run, config, packed, state, fabric, ("rgb", "depth"), px
    ):
        set_lr(optimizer, config, step, total)
        inputs = channels_last(batch["rgb"]), channels_last(batch["depth"]), labels(batch)
        if priors:
            networks = (
                student,
                tap,
                None if config.no_teacher else teacher,
                teacher_tap,
                optimizer,
                priors,
            )
            inner, outer = halves(*inputs) if config.split else (inputs, None)
            log(
                meta_step(
                    *networks,
                    *inner,
                    alpha=config.alpha,
                    beta=config.beta,
                    outer=outer,
                    inner_steps=config.inner_steps,
                    inner_optimizer=config.inner_optimizer,
                    **shared,
                )
            )
        else:
            log(distil_step(student, tap, teacher, teacher_tap, optimizer, *inputs, **shared))
    for prior in priors:
        prior.save(run.folder / f"prior_p{prior.p}.safetensors", iterations=total)
        engine.write_json(run.folder / f"prior_p{prior.p}.json", prior.quantiles())
    engine.save_weights(run.folder / "distilled.safetensors", student)
    predicted = predict(student, test, px, fabric)
    save_predictions(run.folder / "predictions.npz", *predicted)
    for prior in priors:
        write_card(
            run.folder / f"prior_p{prior.p}.md",
            f"A prior, p = {prior.p}",
            prior_facts(prior),
            ABOUT_PRIOR,
        )
    return finish_student(run, config, score(*predicted), "A hand student, distilled from depth")
