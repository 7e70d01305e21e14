"""`cmkg run regime`: is there a regime in which the prior carries something? Three looks at a
finished run's phi.

alike: how alike the phi are that other alpha and beta learn. If they are, strength is the only
setting that matters. Another unit of the loss is another alpha and beta. carried: what theta_0
and phi alone give, without a target. curves: validation EPE over three decades of strength,
trained longer, coupled and decoupled, beside l2 and the permuted phi.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .. import engine
from ..hands.augment import Augmentation
from ..hands.datasets.packed import Packed
from ..prior import Prior
from . import distill, experiment, graded, priors, study, target
from .common import at_least_one, channels_last, fetch, positive, predict, score, seeds_from_zero


@dataclass(frozen=True)
class Regime:
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
    precision: engine.Precision = "auto"
    augmentation: Augmentation = experiment.TARGET_AUGMENTATION

    def __post_init__(self):
        positive(self, "frames", "steps")
        at_least_one(self, "strengths")
        seeds_from_zero(self.seeds)
        graded.whole_sequences("--frames", self.frames)


PRESETS = {
    "regime": (
        "What phi alone carries, what alpha and beta change, and three decades of strength.",
        Regime(),
    )
}
VARIANTS = {
    "alpha / 4": {"alpha": 5e-5 / 4},
    "alpha / 16": {"alpha": 5e-5 / 16},
    "beta x 10": {"beta": 1e-2},
    "another order": {"seed": 1},
}
# 2 lr K, the decay that phi of a root mean square of one has done
DECAYS = torch.logspace(-3, 3, 61)


def run(config: Regime):
    out, base = Path(config.out), Path(config.base)
    folder = engine.Run(out, config)
    if folder.result is None:
        folder.finish(measured(config, out, base))
    from ..report import study as report

    engine.on_first_rank(lambda: report.write_regime(out))
    engine.say(f"{out}/regime.md and regime.json are written")


def measured(config, out, base):
    settings = experiment.Experiment(**study.saved(base))
    engine.say("what other alpha and beta learn")
    learned = learn(config, base, out, settings)
    found = {"alike": {name: alike(learned["second half"], learned[name]) for name in VARIANTS}}
    engine.say("what phi alone carries")
    return found | {
        "carried": carried(base, settings, learned),
        "curves": curves(config, out, base, settings),
    }


def learn(config, base, out, settings):
    """{name: Prior}: the run's, those of VARIANTS, and two from checkpoints alone: of the second
    half, and from theta_0 on."""
    stage = replace(
        experiment.source_stages(settings, base)["distill"],
        exponents=(2,),
        precision=config.precision,
    )
    for name, changes in VARIANTS.items():
        distill.run(replace(stage, out=str(out / plain_name(name)), **changes))
    path = out / study.WHOLE
    # to first order what is learned from theta_0 on
    engine.on_first_rank(lambda: experiment.two_checkpoints(base, path, "theta_0"))
    named = {
        "second half": base / "distill/prior_p2.safetensors",
        "two checkpoints, second half": base / "distill/prior_two_checkpoints.safetensors",
        "two checkpoints, from theta_0 on": path,
    }
    named |= {name: out / plain_name(name) / "prior_p2.safetensors" for name in VARIANTS}
    return {name: Prior.load(file) for name, file in named.items()}


def plain_name(name):
    """A folder's name for a variant or a family."""
    return name.replace("/", "over").replace(",", "").replace(" ", "-")


def alike(a, b):
    """Pearson's correlation of two phi, over all weights."""
    return priors.correlation(
        *(torch.cat([q.phi[n].flatten().double() for n in a.phi]) for q in (a, b))
    )


# ---- what phi alone carries ----------------------------------------------------------------------
def weights(student, name, folder=None):
    """{name: tensor} of a finished stage's weights, those that carry phi."""
    net = distill.build(student, 3, "theta_0")[0]
    net = engine.load_weights((folder or student) / f"{name}.safetensors", net)
    return {n: t.detach() for n, t in net.named_parameters() if t.dim() >= 2}


def carried(base, settings, learned):
    """theta_0 moved by phi alone, without a target, as far as points best to the distilled weights.

    cosine: between that displacement and the source's own, over all weights. epe_mm: on the
    source's test, when all other parameters are the distilled student's and BatchNorm's
    statistics are measured anew. "sizes" is for scale: the distilled weights' sizes with
    theta_0's signs.
    """
    theta_0, theta_k = (
        weights(base / "student", "theta_0"),
        weights(base / "student", "distilled", base / "distill"),
    )
    moved = {
        "theta_0": theta_0,
        "distilled": theta_k,
        "sizes": {n: theta_k[n].abs() * theta_0[n].sign() for n in theta_k},
    }
    # these are the run's phi again, see "alike"
    for name in [n for n in learned if n not in ("beta x 10", "another order")]:
        moved[name] = best_decay(theta_0, theta_k, learned[name].with_rms(1.0).phi)
        moved[f"{name}, permuted"] = best_decay(
            theta_0, theta_k, learned[name].permuted(0).with_rms(1.0).phi
        )
    rows = [
        {
            "label": name,
            "cosine": cosine(theta_0, theta_k, at),
            "epe_mm": error_with(base, settings, at),
        }
        for name, at in moved.items()
    ]
    kept = sum(int((theta_0[n].sign() == theta_k[n].sign()).sum()) for n in theta_k) / sum(
        t.numel() for t in theta_k.values()
    )
    return {"rows": rows, "signs_kept": kept}


def best_decay(theta_0, theta_k, phi):
    """theta_0 exp(-t phi), what t = 2 lr K of decoupled decay makes of it, for the t that points
    best to theta_k."""
    at = [{n: theta_0[n] * (-t * phi[n]).clamp(max=20).exp() for n in theta_0} for t in DECAYS]
    return max(at, key=lambda moved: cosine(theta_0, theta_k, moved))


def cosine(theta_0, theta_k, at):
    """Between the displacements to `at` and to theta_k; 0 where nothing moved."""
    a, b = (
        torch.cat([(w[n] - theta_0[n]).flatten().double() for n in theta_0]) for w in (at, theta_k)
    )
    return float(a @ b / (a.norm() * b.norm()).clamp_min(1e-30))


@torch.no_grad()
def error_with(base, settings, moved, batches=32):
    """EPE on the source's test of the distilled student with its weights replaced by `moved`."""
    net = engine.load_weights(
        base / "distill/distilled.safetensors", distill.build(base / "student", 3, "student")[0]
    )
    for n, t in net.named_parameters():
        if n in moved:
            t.copy_(moved[n])
    source = Packed(base / "data/source")
    for norm in (m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    for k in range(min(batches, len(source) // settings.batch)):
        net(
            channels_last(
                fetch(
                    source, range(k * settings.batch, (k + 1) * settings.batch), settings.px, "cpu"
                )["rgb"]
            )
        )
    return score(
        *predict(net, Packed(base / "data/source-test"), settings.px, engine.launch("32-true"))
    )["epe_mm"]


# ---- strength ------------------------------------------------------------------------------------
def curves(config, out, base, settings):
    """{family: {strength: [validation EPE, a seed each]}}; None where training diverged."""
    data = graded.draw_target(settings, out / "data", f"size-{config.frames}", config.frames, 240)
    blocks = experiment.tuning_blocks(config.frames)
    count = blocks["fit"][1]
    stage = target.Target(
        data=str(data / "target"),
        test=str(data / "target-test"),
        student=str(base / "student"),
        source=str(base / "data/source"),
        epochs=graded.epochs_of(config.steps, count, settings.batch),
        batch=settings.batch,
        lr=settings.target_lr,
        schedule="cosine",
        frames=blocks["fit"],
        validation=blocks["validation"],
        turns_deg=settings.turns_deg,
        precision=config.precision,
        augmentation=config.augmentation,
    )
    phi, whole = str(base / "distill/prior_p2.safetensors"), str(out / study.WHOLE)
    small = str(out / plain_name("alpha / 16") / "prior_p2.safetensors")
    families = {
        "l2": {},
        "prior": {"prior": phi},
        "prior, permuted": {"prior": phi, "permuted": True},
        "prior, alpha / 16": {"prior": small},
        "prior, alpha / 16, permuted": {"prior": small, "permuted": True},
        "two checkpoints, from theta_0 on": {"prior": whole},
        "two checkpoints, permuted": {"prior": whole, "permuted": True},
        "two checkpoints, decoupled": {"prior": whole, "coupled": False},
        "prior, decoupled": {"prior": phi, "coupled": False},
    }
    found = {
        "none": {
            "0": [
                tried(replace(stage, seed=s, out=str(out / f"curves/none/seed-{s}")))
                for s in config.seeds
            ]
        }
    }
    for name, changes in families.items():
        engine.say(f"strengths: {name}")
        home = out / "curves" / plain_name(name)
        found[name] = {
            f"{sigma:g}": [
                tried(
                    replace(
                        stage,
                        seed=s,
                        sigma=sigma,
                        out=str(home / f"sigma-{sigma:g}/seed-{s}"),
                        **changes,
                    )
                )
                for s in config.seeds
            ]
            for sigma in config.strengths
        }
    return found


def tried(stage):
    value = experiment.validation_error(stage)
    return None if value == experiment.DIVERGED else value
