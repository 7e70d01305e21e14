"""`cmkg distill`: the second half of the student's training, on G = L_REG + L_DIST (Eqs. 4 and 8).

Meanwhile the prior phi is meta-learned (Algorithm 3). theta's path does not depend on phi, so p = 1
and p = 2 are learned side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import nn

from ...batch import Batch, halve
from ...cards import ABOUT_PRIOR, prior_facts, write_card
from ...features import FeatureTap
from ...prior import Prior, fingerprint
from ...runtime.checks import expect_from_zero, expect_positive
from ...runtime.distributed import gradient_average, launch, place_model
from ...runtime.files import save_weights, write_json
from ...runtime.runs import Losses, Run
from ...steps import distil_step, meta_step
from ..datasets.packed import Packed, open_training_set
from ..network.augment import Augmentation
from ..network.pose import HandBatch
from ..network.pose_loss import LOSS_UNIT, PoseLoss
from .fitting import Loader, fit
from .networks import THETA_0, load_network
from .predicting import predict, save_predictions, score
from .settings import Flat, OptimConfig, SourceData
from .student_card import finish_student


@dataclass(frozen=True)
class PhiConfig:
    """How phi is learned."""

    exponents: tuple[Literal[1, 2], ...] = (1, 2)
    """p of the priors to learn; empty = distillation alone."""
    alpha: float = 5e-5
    """Rate of the inner step. The paper's 2.5e-4 is in its own unit; here it nears divergence. With
    the inner optimiser adam: in parts of Adam's own rate."""
    inner_optimizer: Literal["sgd", "adam"] = "sgd"
    """sgd: the paper's. adam: the inner step is alpha of the step that Adam takes, weight by
    weight."""
    beta: float = 1e-3
    """phi's step."""
    phi_parameters: Literal["weights", "all"] = "weights"
    """Which parameters carry phi."""
    split: bool = False
    """The first half of each batch is the inner step's, the second G's; else both see the same
    batch, as in the paper."""
    inner_steps: int = 1
    """l of Algorithm 1."""

    def __post_init__(self) -> None:
        expect_positive(self, "alpha", "beta", "inner_steps")


@dataclass(frozen=True)
class Distill:
    """Settings of distilling a teacher into a student."""

    student: str = "runs/student"
    """Folder of a finished student run."""
    start: Literal["student", "theta_0"] = "student"
    """Its weights to start from: trained, or theta_0, so that phi sees the whole way (it takes as
    many epochs more)."""
    teacher: str = "runs/teacher"
    """Folder of a finished teacher run."""
    out: str = "runs/distill"
    attention_weight: float = 1e3
    """lambda of Eq. 4; 0 leaves L_ACT alone."""
    use_teacher: bool = True
    """False is a control: G = L_REG, for theta and for phi alike."""
    source: Annotated[SourceData, Flat] = field(default_factory=SourceData)
    phi: Annotated[PhiConfig, Flat] = field(default_factory=PhiConfig)
    optim: Annotated[OptimConfig, Flat] = field(default_factory=OptimConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        expect_from_zero(self, "attention_weight")


def new_priors(config: Distill, model: nn.Module, theta_0: nn.Module) -> list[Prior]:
    """phi_0 = 0 for each exponent; the manifest says how it is learned."""
    facts = {
        "alpha": config.phi.alpha,
        "beta": config.phi.beta,
        "loss_units": LOSS_UNIT,
        "inner_optimizer": config.phi.inner_optimizer,
        "source": Path(config.source.data).name,
        "teacher": Path(config.teacher).name,
        "attention_weight": config.attention_weight,
        "fingerprint": fingerprint(theta_0),
    }
    select = config.phi.phi_parameters
    return [
        Prior.constant(model, 0.0, p, select, None, "weight", facts).track_noise()
        for p in config.phi.exponents
    ]


def run(config: Distill) -> dict[str, Any]:
    """Distils, tests, and writes distilled.safetensors, the priors and the result."""
    run = Run(config.out, config, "distilled student")
    if run.result:
        return run.result
    fabric = launch(config.optim.precision)
    start, net = load_network(config.student, "rgb", config.start)
    theta_0, _ = load_network(config.student, "rgb", THETA_0)
    teacher, _ = load_network(config.teacher, "depth", "teacher")
    packed = open_training_set(config.source.data, config.source.extra)
    both = ("rgb", "depth")
    loader = Loader(packed, net.px, fabric.device, both, config.augmentation)
    test = Loader(Packed(config.source.test), net.px, fabric.device)
    own = packed if isinstance(packed, Packed) else packed.first
    loss = PoseLoss(own.bone_mm, net.heatmap_weight)

    teacher.to(fabric.device).requires_grad_(False)
    student = place_model(start, fabric)
    tap = FeatureTap(student, start.feature_layers)
    teacher_tap = FeatureTap(teacher, teacher.feature_layers)
    optimizer = torch.optim.Adam(student.parameters(), config.optim.lr)
    priors = new_priors(config, student, theta_0)
    average = gradient_average(fabric)

    def update(batch: HandBatch, _step: int) -> Losses:
        whole = Batch(batch.picture("rgb"), batch.picture("depth"), batch.labels)
        if not priors:
            return distil_step(
                student,
                tap,
                teacher,
                teacher_tap,
                optimizer,
                *whole,
                loss=loss,
                attention_weight=config.attention_weight,
                context=fabric.autocast,
                average=average,
            )
        inner: Batch = whole
        outer: Batch | None = None
        if config.phi.split:
            inner, outer = halve(whole)
        return meta_step(
            student,
            tap,
            teacher if config.use_teacher else None,
            teacher_tap,
            optimizer,
            priors,
            *inner,
            alpha=config.phi.alpha,
            beta=config.phi.beta,
            loss=loss,
            attention_weight=config.attention_weight,
            outer=outer,
            inner_steps=config.phi.inner_steps,
            inner_optimizer=config.phi.inner_optimizer,
            context=fabric.autocast,
            average=average,
        )

    state: dict[str, Any] = {"model": student, "optimizer": optimizer}
    for prior in priors:
        state |= {f"phi_{prior.p}": prior.phi, f"noise_{prior.p}": prior.noise}
    with run.claim():
        steps = fit(run, config.optim, loader, state, fabric, update)
        for prior in priors:
            save_prior(run, prior, steps)
        save_weights(run.path("distilled.safetensors"), student)
        predictions = predict(student, test, fabric)
        save_predictions(run.path("predictions.npz"), predictions)
        return finish_student(run, score(predictions), "A hand student, distilled from depth")


def save_prior(run: Run, prior: Prior, steps: int) -> None:
    """Writes a learned prior, its quantiles and its card."""
    name = f"prior_p{prior.p}"
    prior.save(run.path(f"{name}.safetensors"), {"iterations": steps})
    write_json(run.path(f"{name}.json"), prior.quantiles())
    title = f"A prior, p = {prior.p}"
    write_card(run.path(f"{name}.md"), title, prior_facts(prior), ABOUT_PRIOR)
