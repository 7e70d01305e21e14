"""In which unit of the loss do the paper's sigma, alpha and beta act? The paper does not say.

    python -m studies.units --source packed/source --target packed/target --test packed/test \
        --out runs/units

Adam on L_REG alone is independent of its unit, but R, the inner step and L_DIST are not: sigma =
1e-5 with a loss in mm^2 corresponds to 1e-11 with one in m^2. For each unit, with the paper's alpha
= 2.5e-4, beta = 1e-3 and lambda = 1e3, the study reports the three terms of G after the first half,
phi as learned in the second half, and the effect of none, l1, l2 and phi on a target trained from
theta_0: the weights' root mean square, the share near zero, and the EPE. It needs packed sets
stored at 128 px or more; networks and steps are settings.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from cmkg.batch import Batch
from cmkg.distillation.distiller import Distiller
from cmkg.distillation.losses import distillation_loss
from cmkg.errors import Diverged
from cmkg.hands.commands.target import weight_histogram
from cmkg.hands.datasets.packed.format import Packed
from cmkg.hands.datasets.packed.labelled_set import open_frames
from cmkg.hands.network.loader import Loader
from cmkg.hands.network.pose_loss import PoseLoss
from cmkg.hands.network.posenet import LossUnit, NetConfig, PoseNet, pose_net
from cmkg.hands.network.predictions import predict, score_predictions
from cmkg.hands.stages.stage_settings import Flat
from cmkg.prior.learner import MetaConfig, PriorLearner
from cmkg.prior.prior import Prior
from cmkg.runtime.distributed import Precision, Processes, launch
from cmkg.runtime.files import write_json
from cmkg.runtime.progress import say
from cmkg.training.step import take_step
from studies.program import main

ALPHA, BETA, LR = 2.5e-4, 1e-3, 2.5e-4
# sigma and exponent of each row of Table 2; None is phi.
ROWS: dict[str, tuple[float | None, int]] = {
    "none": (0.0, 2),
    "l1-1e-4": (1e-4, 1),
    "l1-1e-6": (1e-6, 1),
    "l2-1e-3": (1e-3, 2),
    "l2-1e-5": (1e-5, 2),
    "prior-l1": (None, 1),
    "prior-l2": (None, 2),
}


@dataclass(frozen=True)
class Units:
    """Measure the terms of the loss and the effect of the prior for each unit of the loss."""

    source: str = "packed/source"
    """Folder of the source's packed set, with depth."""
    target: str = "packed/target"
    test: str = "packed/test"
    out: str = "runs/units"
    net: Annotated[NetConfig, Flat] = field(default_factory=NetConfig)
    units: tuple[LossUnit, ...] = ("mm", "cm", "bone", "m")
    rows: tuple[str, ...] = tuple(ROWS)
    batch: int = 32
    first_steps: int = 1500
    """Steps of the teacher, and of the student's first half."""
    second_steps: int = 600
    """Steps of distillation, in which phi is learned."""
    target_steps: int = 600
    precision: Precision = "32-true"


@dataclass(frozen=True)
class Setting:
    """The data and device with which networks are trained."""

    config: Units
    fabric: Processes
    source: Loader
    target: Loader
    test: Loader

    def net(self, channels: int, seed: int = 0) -> PoseNet:
        """A new network."""
        return pose_net(self.config.net, channels, seed).to(self.fabric.device)

    def loss(self, unit: LossUnit, loader: Loader) -> PoseLoss:
        """Eq. 1 in a unit, squared, for a set's mean hand."""
        return PoseLoss(loader.data.first.bone_mm, 0.0, unit)

    def batch(self, loader: Loader, step: int) -> Batch:
        """A batch of the source, or of the target, which has no depth."""
        hands = loader.training_batch(0, step, self.config.batch, self.fabric)
        depth = hands.picture("depth") if hands.depth is not None else None
        return Batch(hands.picture("rgb"), depth, hands.labels)


def run(config: Units) -> dict[str, Any]:
    """Measures all units; writes <out>/units.json after each."""
    fabric = launch(config.precision)
    px, device = config.net.px, fabric.device
    setting = Setting(
        config,
        fabric,
        Loader(open_frames(Packed(config.source)), px, device, ("rgb", "depth")),
        Loader(open_frames(Packed(config.target)), px, device),
        Loader(open_frames(Packed(config.test)), px, device),
    )
    first = {channels: _first_half(setting, channels) for channels in (1, 3)}
    results: dict[str, Any] = {"settings": asdict(config), "units": {}}
    Path(config.out).mkdir(parents=True, exist_ok=True)
    for unit in config.units:
        results["units"][unit] = of_unit(setting, unit, first)
        write_json(Path(config.out) / "units.json", results)
    return results


def _first_half(setting: Setting, channels: int) -> PoseNet:
    """Trains the teacher (1 channel) or student (3) on L_REG, whose unit is irrelevant here."""
    net, loss = setting.net(channels), setting.loss("cm", setting.source)
    adam = torch.optim.Adam(net.parameters(), LR)
    for step in range(setting.config.first_steps):
        batch = setting.batch(setting.source, step)
        picture = batch.student_input if channels == 3 else batch.teacher_input
        losses_of = partial(_regression, net, loss, picture, batch.target)
        losses = take_step(net, adam, losses_of, setting.fabric.autocast)
        if step % 200 == 0:
            say(f"{channels} channels, step {step}: {losses['regression']:.2f} cm^2")
    return net


def _regression(net: nn.Module, loss: Any, x: Tensor, y: Any) -> dict[str, Tensor]:
    return {"regression": loss(net(x), y)}


def of_unit(setting: Setting, unit: LossUnit, first: dict[int, PoseNet]) -> dict[str, Any]:
    """The terms of G, phi and the target's rows in one unit."""
    student = setting.net(3)
    student.load_state_dict(first[3].state_dict())
    layers = [(name, name) for name in student.feature_layers]
    distiller = Distiller(
        student,
        first[1],
        pairs=layers,
        loss=setting.loss(unit, setting.source),
        criterion=distillation_loss,
    )
    results: dict[str, Any] = {"terms": _terms(setting, distiller)}
    say(f"{unit}: G = {results['terms']}")
    try:
        priors, results["distilled"] = _second_half(setting, distiller)
    except Diverged as error:
        priors, results["distilled"] = [], {"diverged": str(error)}
    distiller.close()
    say(f"{unit}: {results['distilled']}")
    results["rows"] = {}
    for name in setting.config.rows:
        sigma, p = ROWS[name]
        learned = next((prior for prior in priors if prior.p == p), None)
        net = setting.net(3)
        prior = learned if sigma is None else Prior.constant(net, sigma, p)
        if prior is None:  # the learning of phi diverged
            continue
        row = results["rows"][name] = _on_target(setting, net, prior, unit)
        say(f"{unit}, {name}: " + ", ".join(f"{k} {v:.4g}" for k, v in _numbers(row).items()))
    return results


@torch.no_grad()
def _terms(setting: Setting, distiller: Distiller) -> dict[str, float]:
    """The means of the terms of G over ten batches, before the second half."""
    distiller.student.eval()
    sums: dict[str, float] = {}
    for step in range(10):
        with setting.fabric.autocast():
            losses = distiller(setting.batch(setting.source, step))
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value) / 10
    distiller.student.train()
    return sums


def _second_half(setting: Setting, distiller: Distiller) -> tuple[list[Prior], dict[str, Any]]:
    """Learns phi for both exponents, with the paper's alpha and beta."""
    learner = PriorLearner(distiller, MetaConfig((1, 2), alpha=ALPHA, beta=BETA))
    adam = torch.optim.Adam(distiller.student.parameters(), LR)
    losses: dict[str, float] = {}
    for step in range(setting.config.second_steps):
        batch = setting.batch(setting.source, setting.config.first_steps + step)
        losses = take_step(
            distiller.student,
            adam,
            partial(distiller, batch),
            setting.fabric.autocast,
            partial(learner.backward, batch),
        )
    sizes = {f"phi_{prior.p}_rms": prior.rms() for prior in learner.priors}
    return learner.priors, {"losses": losses, **sizes}


def _on_target(setting: Setting, net: PoseNet, prior: Prior, unit: LossUnit) -> dict[str, Any]:
    """The weights and the error after training on the target from theta_0."""
    loss, adam = setting.loss(unit, setting.target), torch.optim.Adam(net.parameters(), LR)
    try:
        with prior.attach(adam, net):
            for step in range(setting.config.target_steps):
                batch = setting.batch(setting.target, step)
                losses_of = partial(_regression, net, loss, batch.student_input, batch.target)
                take_step(net, adam, losses_of, setting.fabric.autocast)
    except Diverged:
        return {"diverged": 1.0}
    weights = weight_histogram(net)
    error = score_predictions(predict(net, setting.test, setting.fabric))["epe_mm"]
    return {"epe_mm": error, **weights}


BACKBONES = {"resnet18": "ResNet-18", "resnet50": "ResNet-50"}


def format_units(held: dict[str, Any]) -> str:
    """Two Markdown tables of docs/results/units.json: G and phi by unit, and target weights."""
    terms = [
        "| network, steps, unit | L_REG | L_ACT | λ L_ATT | at the end, G at θ̈ | φ rms, p = 1 | "
        "p = 2 |",
        "| :-- | --: | --: | --: | --: | --: | --: |",
    ]
    cells: dict[str, dict[str, str]] = {}
    for run in held["runs"]:
        settings = run["settings"]
        for unit, measured in run["units"].items():
            steps = f"{settings['second_steps']:,}"
            name = f"{BACKBONES[settings['net']['backbone']]}, {steps}, {unit}²"
            shown = [_short(value) for value in measured["terms"].values()]
            if "diverged" in measured["distilled"]:
                shown += ["diverged", "", ""]
            else:
                shown.append(_short(measured["distilled"]["losses"]["outer_1"]))
                shown += [_short(measured["distilled"][f"phi_{p}_rms"]) for p in (1, 2)]
            if name not in cells:
                terms.append(f"| {name} | {' | '.join(shown)} |")
            cells.setdefault(name, {}).update(
                {row: _weights_of(result) for row, result in measured["rows"].items()}
            )
    weights = [f"| network, steps, unit | {' | '.join(ROWS)} |", "| :-- |" + " --: |" * len(ROWS)]
    for name, cell in cells.items():
        weights.append(f"| {name} | {' | '.join(cell.get(row, '') for row in ROWS)} |")
    return "\n".join([*terms, "", *weights, ""])


def _weights_of(result: dict[str, float]) -> str:
    if "diverged" in result:
        return "diverged"
    return f"{result['rms']:.4f} ({100 * result['near_zero']:.0f} %)"


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1e2 <= value < 1e6 else f"{value:.2g}".replace("e+0", "e")


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, float)}


if __name__ == "__main__":
    main(run, Units)
