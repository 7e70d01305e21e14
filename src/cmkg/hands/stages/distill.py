"""`cmkg distill`: the second half of the student's training, on G = L_REG + L_DIST (Eqs. 4 and 8).

Meanwhile the prior phi is meta-learned (Algorithm 3). theta's path does not depend on phi, so p = 1
and p = 2 are learned side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import nn

from ...batch import Batch
from ...cards import ABOUT_PRIOR, prior_facts, write_card
from ...distiller import Distiller
from ...learner import MetaConfig, PriorLearner
from ...losses import distillation_loss
from ...prior import Prior
from ...runtime.checks import expect_from_zero, expect_positive
from ...runtime.distributed import launch, place_model
from ...runtime.files import save_weights, write_json
from ...runtime.runs import Losses, Run
from ...steps import take_step
from ..datasets.packed import Packed, open_training_set
from ..network.augment import Augmentation
from ..network.pose import HandBatch
from ..network.pose_loss import describe_unit, loss_of
from .fitting import Loader, fit, load_optimizer, second_half
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
    exact: bool = False
    """phi's gradient by unrolling the inner steps, with second-order graphs: exact over l = 1,
    where the terms of the steps are summed otherwise. On one process."""

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
    optimizer_state: str = ""
    """Adam's state to go on with: optimizer.pt of the student's run (--keep-optimizer there); empty
    = begun anew."""
    source: Annotated[SourceData, Flat] = field(default_factory=SourceData)
    phi: Annotated[PhiConfig, Flat] = field(default_factory=PhiConfig)
    optim: Annotated[OptimConfig, Flat] = field(default_factory=OptimConfig)
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        expect_from_zero(self, "attention_weight")


def learner_of(
    config: Distill, distiller: Distiller, theta_0: nn.Module, loss_unit: str
) -> PriorLearner:
    """What learns phi for each exponent, from 0; the priors' manifest says how."""
    phi = config.phi
    how = MetaConfig(
        exponents=phi.exponents,
        alpha=phi.alpha,
        beta=phi.beta,
        split=phi.split,
        inner_steps=phi.inner_steps,
        inner_optimizer=phi.inner_optimizer,
        select=phi.phi_parameters,
        exact=phi.exact,
    )
    facts = {
        "loss_units": loss_unit,
        "source": Path(config.source.data).name,
        "teacher": Path(config.teacher).name,
        "attention_weight": config.attention_weight,
    }
    return PriorLearner(distiller, how, theta_0=theta_0, facts=facts)


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
    loss = loss_of(net, own.bone_mm)

    teacher.to(fabric.device).requires_grad_(False)
    student = place_model(start, fabric)
    layers = [(name, name) for name in start.feature_layers]
    distiller = Distiller(
        student,
        teacher if config.use_teacher else None,
        pairs=layers,
        loss=loss,
        criterion=partial(distillation_loss, attention_weight=config.attention_weight),
    )
    learner = None
    if config.phi.exponents:
        learner = learner_of(config, distiller, theta_0, describe_unit(net))
    optimizer = torch.optim.Adam(student.parameters(), config.optim.lr)
    if config.optimizer_state:
        load_optimizer(config.optimizer_state, optimizer)

    def update(hands: HandBatch, _step: int) -> Losses:
        batch = Batch(hands.picture("rgb"), hands.picture("depth"), hands.labels)
        learn = None if learner is None else partial(learner.backward, batch, optimizer=optimizer)
        return take_step(student, optimizer, lambda: distiller(batch), fabric.autocast, learn)

    state: dict[str, Any] = {"model": student, "optimizer": optimizer}
    if learner is not None:
        state["learner"] = learner
    with run.claim():
        key = None
        if config.start != THETA_0:
            key = second_half(config.student, config.optim.seed)
        steps = fit(run, config.optim, loader, state, fabric, update, key)
        for prior in learner.priors if learner else ():
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
