"""`cmkg target`: the student on a target without depth, on F = L_REG + R(theta; phi) (Eq. 9,
Algorithm 2)."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from .. import engine
from ..engine import Precision
from ..errors import InputError
from ..hands.augment import Augmentation
from ..hands.datasets.packed import Packed
from ..hands.model import pose_net
from ..hands.skeleton import bone_scale
from ..prior import Prior, fingerprint
from ..steps import supervised_step
from .common import (
    at_least_one,
    block,
    channels_last,
    conversion,
    converted,
    fetch,
    finish_student,
    labels,
    loss_cm,
    positive,
    predict,
    save_predictions,
    score,
    set_lr,
    together,
    training_batches,
)
from .distill import build


@dataclass(frozen=True)
class Target:
    data: str = "data/target"
    test: str = "data/target-test"
    out: str = "runs/target"
    student: str = "runs/student"
    """Folder of the source student: its architecture and theta_0."""
    source: str = "data/source"
    """The source's packed set: its bone convention, for weights that were trained there."""
    start: str = ""
    """Weights to start from; empty = theta_0."""
    prior: str = ""
    """A prior's file; empty = phi_i = sigma for all weights (plain l1, l2; with centre L2-SP)."""
    sigma: float = 0.0
    """With a prior: phi is scaled to this root mean square (its strength), 0 = as it was
    learned. Without: the constant, 0 = none."""
    exponent: int = 2
    """p, for the constant; a prior's file has its own."""
    centre: str = ""
    """Weights theta* around which R is centred; empty = zero, as in the paper."""
    permuted: bool = False
    """Control: phi permuted within each layer."""
    layer_mean: bool = False
    """Control: each layer's phi replaced by its mean."""
    fresh: int = 0
    """Control: a number gives theta_0 anew from that seed, which phi does not belong to; 0 = the
    student's."""
    alongside: str = ""
    """A packed set: each batch is joined by as many of its samples, their labels in the target's
    bone convention."""
    scale: Literal["frame", "set"] = "frame"
    """The unit of the student's joints. frame: the protocol's, each frame's own annotated bone.
    set: the training frames' mean bone, for a target of one person: an annotator's bone
    varies from frame to frame (by 9 % on the real hands). The test frames' bones are then not
    used."""
    coupled: bool = True
    """True: R's gradient goes through Adam (the paper's F). False: decoupled decay (Eq. 16)."""
    frames: tuple[int, int] | None = None
    """Train on these frames [first, last) of `data`; None = all."""
    validation: tuple[int, int] | None = None
    """Score on these frames of `data` instead of `test`."""
    epochs: int = 100
    batch: int = 32
    lr: float = 2.5e-4
    schedule: Literal["constant", "cosine"] = "constant"
    """The paper's is constant."""
    seed: int = 0
    turns_deg: tuple[float, ...] = (0.0,)
    """A test prediction is the mean over pictures turned by these angles; (0,) is the paper's."""
    precision: Precision = "auto"
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self):
        positive(self, "epochs", "batch", "lr")
        at_least_one(self, "turns_deg")
        if self.exponent not in (1, 2):
            raise InputError(f"--exponent: expected 1 or 2, got {self.exponent}")


def load_start(weights, student, source, packed):
    """The network with `weights` (empty: theta_0); trained weights speak the target's bone
    convention.

    The convention is a linear map on joints, the network's last step: no weight moves.
    """
    model, settings = build(student, 3, "theta_0")
    if weights:
        engine.load_weights(weights, model)
        model.convention.copy_(conversion(Packed(source), packed) @ model.convention)
    return model, settings


def joined(batch, config, other, matrix, step, px, fabric):
    """The batch, followed by as many samples of `other` with converted labels."""
    count = len(batch["joints"])
    rows = engine.batch_indices(
        ("source", config.seed), step, len(other), count, fabric.global_rank, fabric.world_size
    )
    draws = engine.generator("source", config.seed, step, fabric.global_rank, device=fabric.device)
    more = fetch(other, rows.numpy(), px, fabric.device, ("rgb",), config.augmentation, draws)
    return together(batch, converted(more, matrix))


def mean_bone_mm(config, packed):
    """Of the frames that are trained on."""
    first, last = block(packed, config.frames)
    return float(bone_scale(np.array(packed.joints_mm[first:last])).mean())


def regulariser(config, model, packed):
    """The prior of this row, or None."""
    if config.sigma == 0 and not config.prior:
        return None
    centre = None
    if config.centre:
        around = load_start(config.centre, config.student, config.source, packed)[0]
        centre = dict(around.named_parameters())
    if not config.prior:
        return Prior.constant(model, config.sigma, config.exponent, centre=centre)
    prior = Prior.load(config.prior)
    prior.bind(model)
    if not config.start:
        prior.check_start(model)
    if config.permuted:
        prior = prior.permuted(seed=config.seed)
    if config.layer_mean:
        prior = prior.layer_mean()
    if centre:  # around given weights a negative phi would push away from them without bound
        prior = prior.floored(0.0).centred(centre)
    return prior.with_rms(config.sigma) if config.sigma else prior


def run(config: Target):
    run = engine.Run(config.out, config)
    if run.result:
        return run.result
    fabric, packed = engine.launch(config.precision), Packed(config.data)
    scored = packed if config.validation else Packed(config.test)
    block(scored, config.validation)
    model, settings = load_start(config.start, config.student, config.source, packed)
    if config.fresh:
        model = pose_net(
            settings["backbone"],
            settings["width"],
            3,
            config.fresh,
            settings["head"],
            settings["stem_stride"],
        )
    prior = regulariser(config, model, packed)
    prior = prior and prior.to(fabric.device)
    model, px = engine.placed(model, fabric), settings["px"]
    optimizer = torch.optim.Adam(model.parameters(), config.lr)
    began, loss = fingerprint(model), loss_cm(packed, settings["heatmap_weight"])
    state = {"model": model, "optimizer": optimizer}
    bone_mm = mean_bone_mm(config, packed)
    other = Packed(config.alongside) if config.alongside else None
    matrix = conversion(other, packed) if other else None
    for step, total, batch, log in training_batches(
        run, config, packed, state, fabric, px=px, frames=config.frames
    ):
        set_lr(optimizer, config, step, total)
        if config.scale == "set":
            batch["joints"] = batch["joints"] * (batch["scale_mm"] / bone_mm)[:, None, None]
        if other:
            batch = joined(batch, config, other, matrix, step, px, fabric)
        log(
            supervised_step(
                model,
                optimizer,
                channels_last(batch["rgb"]),
                labels(batch),
                loss,
                prior,
                config.coupled,
                fabric.autocast,
                engine.averaged(fabric),
            )
        )
    engine.save_weights(run.folder / "target.safetensors", model, theta_start=began)
    predicted = predict(
        model, scored, px, fabric, frames=config.validation, turns_deg=config.turns_deg
    )
    if config.scale == "set":
        joints, true, scale_mm = predicted
        predicted = joints * (bone_mm / scale_mm)[:, None, None], true, scale_mm
    save_predictions(run.folder / "predictions.npz", *predicted)
    return finish_student(
        run,
        config,
        score(*predicted) | {"weights": histogram(model)},
        "A hand student, trained on the target",
    )


def histogram(model):
    """Counts of all convolution and linear weights (Fig. 5)."""
    edges = np.linspace(-0.3, 0.3, 121)
    weights = torch.cat(
        [t.detach().flatten().cpu() for t in model.parameters() if t.dim() >= 2]
    ).numpy()
    return {
        "edges": edges.round(4).tolist(),
        "counts": np.histogram(weights, edges)[0].tolist(),
        "near_zero": float((np.abs(weights) < 1e-3).mean()),
        "rms": float(np.sqrt((weights**2).mean())),
    }
