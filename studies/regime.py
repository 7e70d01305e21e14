"""Is there a regime in which the prior carries something? Three looks at a finished run's phi.

    python -m studies.regime --base runs/demo --out runs/regime

alike: how alike the phi are that other alpha and beta learn. If they are, strength is the only
setting that matters; another unit of the loss is another alpha and beta. carried: what theta_0 and
phi alone give, without a target. curves: validation EPE over three decades of strength, trained
longer, coupled and decoupled, beside l2 and the permuted phi.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmkg.hands.datasets.packed import Packed
from cmkg.hands.experiments.main import (
    TARGET_AUGMENTATION,
    Experiment,
    read_experiment,
    source_stages,
    target_stage,
    with_folders,
    write_two_checkpoint_prior,
)
from cmkg.hands.experiments.rows import DIVERGED_MM, Blocks, Folders, validation_error
from cmkg.hands.network.augment import Augmentation
from cmkg.hands.stages import distill, target
from cmkg.hands.stages.fitting import Loader
from cmkg.hands.stages.networks import load_network
from cmkg.hands.stages.predicting import predict, score
from cmkg.hands.stages.prior_files import correlation
from cmkg.prior import Prior
from cmkg.runtime.checks import expect_at_least_one, expect_different_seeds, expect_positive
from cmkg.runtime.distributed import Precision, launch, on_first_rank
from cmkg.runtime.files import load_weights
from cmkg.runtime.progress import say
from cmkg.runtime.runs import Run, replace_settings

from . import tables
from .base import WHOLE, main
from .graded import draw_target, epochs_of, expect_whole_sequences

VARIANTS: dict[str, dict[str, Any]] = {
    "alpha / 4": {"alpha": 5e-5 / 4},
    "alpha / 16": {"alpha": 5e-5 / 16},
    "beta x 10": {"beta": 1e-2},
    "another order": {"seed": 1},
}
SAME_AGAIN = ("beta x 10", "another order")  # these are the run's phi again, see "alike"
SECOND_HALF = "second half"
TWO_SECOND_HALF = "two checkpoints, second half"
TWO_WHOLE = "two checkpoints, from theta_0 on"
# 2 lr K, the decay that phi of a root mean square of one has done.
DECAYS = torch.logspace(-3, 3, 61)
TEST_FRAMES = 240

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Regime:
    """Settings of the three looks."""

    base: str = "runs/demo"
    """Folder of a finished `cmkg run`: its source stages."""
    out: str = "runs/regime"
    frames: int = 2000
    """Training frames of the STB-like target; its last quarter is the validation block."""
    steps: int = 300
    """Of each training on the target."""
    strengths: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    seeds: tuple[int, ...] = (0,)
    """Seeds of each point of the curves."""
    precision: Precision = "auto"
    augmentation: Augmentation = TARGET_AUGMENTATION

    def __post_init__(self) -> None:
        expect_positive(self, "frames", "steps")
        expect_at_least_one(self, "strengths")
        expect_different_seeds(self.seeds)
        expect_whole_sequences("--frames", self.frames)


def run(config: Regime) -> None:
    """Takes the three looks and writes their tables."""
    out, base = Path(config.out), Path(config.base)
    experiment = read_experiment(base)
    folder = Run(out, config, "regime")
    if folder.result is None:
        with folder.claim():
            folder.finish(look(config, out, base, experiment))
    on_first_rank(lambda: tables.write_regime(out))
    say(f"{out}/regime.md and regime.json are written")


def look(config: Regime, out: Path, base: Path, experiment: Experiment) -> dict[str, Any]:
    """{"alike", "carried", "curves"}."""
    say("what other alpha and beta learn")
    learned = learn(config, base, out, experiment)
    own = learned[SECOND_HALF]
    found: dict[str, Any] = {"alike": {n: phi_correlation(own, learned[n]) for n in VARIANTS}}
    say("what phi alone carries")
    found["carried"] = look_at_carried(base, experiment, learned)
    return found | {"curves": curves(config, out, base, experiment)}


def learn(config: Regime, base: Path, out: Path, experiment: Experiment) -> dict[str, Prior]:
    """The run's phi, those of VARIANTS, and two from checkpoints alone."""
    stage = source_stages(experiment, base)["distill"]
    assert isinstance(stage, distill.Distill)
    stage = replace_settings(stage, exponents=(2,), precision=config.precision)
    for name, changes in VARIANTS.items():
        distill.run(replace_settings(stage, out=str(out / folder_name(name)), **changes))
    # To first order what is learned from theta_0 on.
    on_first_rank(partial(write_two_checkpoint_prior, base, out / WHOLE, "theta_0"))
    files = {
        SECOND_HALF: base / "distill/prior_p2.safetensors",
        TWO_SECOND_HALF: base / "distill/prior_two_checkpoints.safetensors",
        TWO_WHOLE: out / WHOLE,
    }
    files |= {name: out / folder_name(name) / "prior_p2.safetensors" for name in VARIANTS}
    return {name: Prior.load(file) for name, file in files.items()}


def folder_name(name: str) -> str:
    """A folder's name for a variant or a family."""
    return name.replace("/", "over").replace(",", "").replace(" ", "-")


def phi_correlation(a: Prior, b: Prior) -> float:
    """Pearson's correlation of two phi, over all weights."""
    x, y = (torch.cat([p.phi[name].flatten().double() for name in a.phi]) for p in (a, b))
    return correlation(x, y)


# ---- what phi alone carries ----------------------------------------------------------------------
def load_stage_weights(student: Path, file: Path) -> Weights:
    """{name: tensor} of a file's weights, those that carry phi; `student` has the network."""
    net, _ = load_network(student, "rgb", "theta_0")
    load_weights(file, net)
    return {name: t.detach() for name, t in net.named_parameters() if t.dim() >= 2}


def look_at_carried(
    base: Path, experiment: Experiment, learned: dict[str, Prior]
) -> dict[str, Any]:
    """theta_0 moved by phi alone, without a target, as far as points best to the distilled weights.

    cosine: between that displacement and the source's own, over all weights. epe_mm: on the
    source's test, when all other parameters are the distilled student's and BatchNorm's statistics
    are measured anew. "sizes" is for scale: the distilled weights' sizes with theta_0's signs.
    """
    student = base / "student"
    theta_0 = load_stage_weights(student, student / "theta_0.safetensors")
    theta_k = load_stage_weights(student, base / "distill/distilled.safetensors")
    moved = {
        "theta_0": theta_0,
        "distilled": theta_k,
        "sizes": {name: theta_k[name].abs() * theta_0[name].sign() for name in theta_k},
    }
    for name, prior in learned.items():
        if name in SAME_AGAIN:
            continue
        moved[name] = best_decay(theta_0, theta_k, prior.with_rms(1.0).phi)
        permuted = prior.permuted(0).with_rms(1.0).phi
        moved[f"{name}, permuted"] = best_decay(theta_0, theta_k, permuted)
    rows = [
        {
            "label": name,
            "cosine": displacement_cosine(theta_0, theta_k, weights),
            "epe_mm": error_with(base, experiment, weights),
        }
        for name, weights in moved.items()
    ]
    same = sum(int((theta_0[n].sign() == theta_k[n].sign()).sum()) for n in theta_k)
    return {"rows": rows, "signs_kept": same / sum(t.numel() for t in theta_k.values())}


def best_decay(theta_0: Weights, theta_k: Weights, phi: Weights) -> Weights:
    """theta_0 exp(-t phi) for the t that points best to theta_k.

    It is what t = 2 lr K of decoupled decay makes of theta_0.
    """
    at = []
    for t in DECAYS:
        at.append({n: w * (-t * phi[n]).clamp(max=20).exp() for n, w in theta_0.items()})
    return max(at, key=lambda moved: displacement_cosine(theta_0, theta_k, moved))


def displacement_cosine(theta_0: Weights, theta_k: Weights, at: Weights) -> float:
    """Between the displacements to `at` and to theta_k; 0 where nothing moved."""
    a, b = (
        torch.cat([(weights[name] - theta_0[name]).flatten().double() for name in theta_0])
        for weights in (at, theta_k)
    )
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-30))


@torch.no_grad()
def error_with(base: Path, experiment: Experiment, moved: Weights, batches: int = 32) -> float:
    """EPE on the source's test of the distilled student with its weights replaced by `moved`."""
    net, _ = load_network(base / "student", "rgb", "student")
    load_weights(base / "distill/distilled.safetensors", net)
    for name, parameter in net.named_parameters():
        if name in moved:
            parameter.copy_(moved[name])
    px, size = experiment.net.px, experiment.expert.batch
    source = Loader(Packed(base / "data/source"), px)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
    for k in range(min(batches, len(source) // size)):
        net(source.fetch(range(k * size, (k + 1) * size)).picture("rgb"))
    test = Loader(Packed(base / "data/source-test"), px)
    return float(score(predict(net, test, launch("32-true")))["epe_mm"])


# ---- strength ------------------------------------------------------------------------------------
def curves(
    config: Regime, out: Path, base: Path, experiment: Experiment
) -> dict[str, dict[str, list[float | None]]]:
    """{family: {strength: [validation EPE, a seed each]}}; None where training diverged."""
    name = f"size-{config.frames}"
    data = draw_target(experiment, out / "data", name, config.frames, TEST_FRAMES)
    blocks = Blocks.last_quarter(config.frames)
    stage = with_folders(target_stage(experiment), Folders.of(data, base))
    stage = replace_settings(
        stage,
        epochs=epochs_of(config.steps, blocks.fit[1], experiment.expert.batch),
        frames=blocks.fit,
        validation=blocks.validation,
        precision=config.precision,
        augmentation=config.augmentation,
    )
    phi = {"prior": str(base / "distill/prior_p2.safetensors")}
    whole = {"prior": str(out / WHOLE)}
    small = {"prior": str(out / folder_name("alpha / 16") / "prior_p2.safetensors")}
    permuted, decoupled = {"permuted": True}, {"coupled": False}
    families: dict[str, dict[str, Any]] = {
        "l2": {},
        "prior": phi,
        "prior, permuted": phi | permuted,
        "prior, alpha / 16": small,
        "prior, alpha / 16, permuted": small | permuted,
        TWO_WHOLE: whole,
        "two checkpoints, permuted": whole | permuted,
        "two checkpoints, decoupled": whole | decoupled,
        "prior, decoupled": phi | decoupled,
    }

    def errors(home: Path, **changes: Any) -> list[float | None]:
        return [
            tried_error(
                replace_settings(stage, seed=seed, out=str(home / f"seed-{seed}"), **changes)
            )
            for seed in config.seeds
        ]

    found = {"none": {"0": errors(out / "curves/none")}}
    for family, changes in families.items():
        say(f"strengths: {family}")
        home = out / "curves" / folder_name(family)
        found[family] = {
            f"{sigma:g}": errors(home / f"sigma-{sigma:g}", sigma=sigma, **changes)
            for sigma in config.strengths
        }
    return found


def tried_error(stage: target.Target) -> float | None:
    """Validation EPE, mm; None where training diverged."""
    value = validation_error(stage)
    return None if value == DIVERGED_MM else value


if __name__ == "__main__":
    main(run, Regime)
