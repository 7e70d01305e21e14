"""`cmkg run table1|table2|table3|figure4|figure5|figure6`: the paper's experiments on the user's
copies of the datasets.

A row is a named variant: one training stage and what it needs. Stages lie in
<out>/seed-<s>/<stage> and serve every table that needs them: rows can be run alone, in any
order, on several machines, and go on where they were killed.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from .. import engine
from ..errors import InputError
from ..features import FeatureTap
from ..hands.datasets import made
from ..hands.datasets.freihand import DOMAINS, FreiHand
from ..hands.datasets.packed import Shard, pack
from ..hands.datasets.rhd import Rhd
from ..hands.datasets.stb import Stb
from ..hands.model import pose_net
from ..losses import regression_loss
from ..prior import Prior
from ..steps import distil_step, meta_step, supervised_step
from . import distill, render, student, target, teacher
from .common import channels_last, from_zero, positive, seeds_from_zero

TABLE_1 = {
    "r18/continued": ("ResNet-18, RGB", 24.68),
    "r18/teacher": ("ResNet-18, depth", 13.60),
    "r18/act": ("ResNet-18, distilled, L_ACT", 23.41),
    "r18/act-att": ("ResNet-18, distilled, L_ACT + λ L_ATT", 22.19),
    "r18-a/continued": ("ResNet-18 with 𝒜, RGB", 23.07),
    "r18-a/teacher": ("ResNet-18 with 𝒜, depth", 12.06),
    "r18-a/act-att": ("ResNet-18 with 𝒜, distilled", 20.89),
    "r50-a/continued": ("ResNet-50 with 𝒜, RGB", 20.74),
    "r50-a/teacher": ("ResNet-50 with 𝒜, depth", 10.78),
    "r50-a/act-att": ("ResNet-50 with 𝒜, distilled", 18.06),
}
REGULARISERS = {
    "none": {},
    "l1-1e-4": {"sigma": 1e-4, "exponent": 1},
    "l1-1e-6": {"sigma": 1e-6, "exponent": 1},
    "l2-1e-3": {"sigma": 1e-3},
    "l2-1e-5": {"sigma": 1e-5},
    "prior-l1": {"prior": "prior_p1"},
    "prior-l2": {"prior": "prior_p2"},
}
TABLE_2 = {
    "stb/none": ("no regulariser", 15.67, 0.915),
    "stb/l1-1e-4": ("ℓ¹, σ = 1e-4", 11.41, 0.972),
    "stb/l1-1e-6": ("ℓ¹, σ = 1e-6", 11.82, 0.964),
    "stb/l2-1e-3": ("ℓ², σ = 1e-3", 12.28, 0.957),
    "stb/l2-1e-5": ("ℓ², σ = 1e-5", 12.02, 0.964),
    "stb/prior-l1": ("prior, p = 1", 8.86, 0.985),
    "stb/prior-l2": ("prior, p = 2", 8.18, 0.987),
}
TABLE_3_EPE = {
    "freihand-gs": (12.37, 12.28, 12.27),
    "freihand-hom": (14.49, 14.02, 13.82),
    "freihand-sample": (15.80, 14.92, 14.26),
    "freihand-auto": (16.18, 15.16, 14.18),
    "stb": (15.67, 12.02, 8.18),
}
TABLE_3 = {
    f"{data}/{row}": (f"{data}, {label}", epe)
    for data, values in TABLE_3_EPE.items()
    for row, label, epe in zip(
        ("none", "l2-1e-5", "prior-l2"), ("no regulariser", "ℓ²", "prior"), values, strict=False
    )
}
# Which rows a preset trains: {stage: (label, the paper's EPE in mm, its AUC 20-50 where it gives
# one)}.
ROWS = {
    "table1": TABLE_1,
    "table2": TABLE_2,
    "table3": TABLE_3,
    "figure4": {
        k: (TABLE_1 | TABLE_2)[k]
        for k in ("r18-a/act-att", "r50-a/act-att", "stb/none", "stb/prior-l2")
    },
    "figure5": {k: TABLE_2[k] for k in ("stb/none", "stb/l2-1e-5", "stb/prior-l1", "stb/prior-l2")},
    "figure6": {
        k: (TABLE_1 | TABLE_2 | TABLE_3)[k]
        for k in (
            "r18-a/continued",
            "r18-a/act-att",
            "stb/none",
            "stb/prior-l2",
            "freihand-auto/prior-l2",
        )
    },
}
ABOUT = {
    "table1": "RHD: RGB, depth and distilled students, ResNet-18 and 50, with and without "
    "synthetic augmentation 𝒜.",
    "table2": "STB: no regulariser, ℓ¹, ℓ², and the learned priors.",
    "table3": "FreiHAND's four domains and STB: no regulariser, ℓ², prior.",
    "figure4": "PCK curves on RHD and STB beside the published ones.",
    "figure5": "Histograms of the target student's weights.",
    "figure6": "Test pictures with predicted skeletons.",
}
SOURCE = "r18"  # whose theta_0 and prior the targets use: the paper's ResNet-18 on RHD
BACKBONES = {"r18": "resnet18", "r50": "resnet50"}


@dataclass(frozen=True)
class Paper:
    """The paper's values are the defaults."""

    preset: str = "table1"
    out: str = "runs/paper"
    rhd: str = ""
    """Folder RHD_published_v2."""
    stb: str = ""
    """Folder of STB."""
    freihand: str = ""
    """Folder FreiHAND_pub_v2."""
    mano: str = ""
    """MANO_RIGHT.pkl for 𝒜, the synthetic augmentation; empty = the open hand that ships with
    cmkg."""
    textures: str = ""
    """Scans registered to MANO, for 𝒜; empty = procedural skin."""
    rows: tuple[str, ...] = ()
    """Names of the rows to run (`--plan` lists them); empty = all of the preset."""
    seeds: tuple[int, ...] = (0,)
    quick: bool = False
    """Shrinks everything to minutes on two cores; a dataset whose folder is not given is made in
    its layout."""
    plan: bool = False
    """Print the rows and what they cost, and stop."""
    synthetic_count: int = 50_000
    px: int = 256
    batch: int = 32
    lr: float = 2.5e-4
    teacher_epochs: int = 200
    student_epochs: int = 100
    distill_epochs: int = 100
    target_epochs: int = 100
    attention_weight: float = 1e3
    precision: engine.Precision = "auto"

    def __post_init__(self):
        positive(
            self,
            "synthetic_count",
            "px",
            "batch",
            "lr",
            "teacher_epochs",
            "student_epochs",
            "distill_epochs",
            "target_epochs",
        )
        from_zero(self, "attention_weight")
        seeds_from_zero(self.seeds)
        if self.preset not in ROWS:
            raise InputError(f"--preset: expected one of {', '.join(ROWS)}, got {self.preset!r}")
        if unknown := [r for r in self.rows if r not in ROWS[self.preset]]:
            raise InputError(
                f"--rows: {self.preset} has no row {unknown[0]!r}; it has "
                f"{', '.join(ROWS[self.preset])}"
            )


PRESETS = {
    name: (f"{about} The paper's values; --quick takes minutes.", Paper(preset=name))
    for name, about in ABOUT.items()
}


def run(config: Paper):
    """Runs the rows of a preset; returns {stage: result}."""
    engine.launch(config.precision)
    config = shrunk(config) if config.quick else config
    out = Path(config.out)
    stages = {
        s: all_stages(config, list(config.rows or ROWS[config.preset]), s) for s in config.seeds
    }
    sets = sources_of(config, stages[config.seeds[0]])
    # a dataset that is not there shows here
    sizes = {name: len(dataset) for name, dataset in sets.items()}
    print_plan(config, stages, sizes)
    if config.plan:
        return None
    for name, dataset in sets.items():
        engine.say(f"data: {name}")
        pack(dataset, out / "data" / name)
    engine.write_json(out / "paper_rows.json", ROWS)
    results = {}
    for seed, plan in stages.items():
        for name, settings in plan.items():
            engine.say(f"seed {seed}: {name}")
            results[name] = MODULES[type(settings)].run(settings)
    from ..report import paper

    engine.on_first_rank(lambda: paper.write(out))
    engine.say(f"{out}/paper.html is written")
    return results


def shrunk(config):
    """The same experiment in minutes: made data where none is given, tiny networks, one epoch."""
    out = config.out if config.out != Paper.out else f"{Paper.out}-quick"
    made_sets = {
        name: str(Path(out) / "made" / name)
        for name in ("rhd", "stb", "freihand")
        if not getattr(config, name)
    }
    needs = {
        name.split("-")[0]
        for plan in [all_stages(config, list(config.rows or ROWS[config.preset]), 0)]
        for name in sources_needed(plan)
    }
    for name, folder in made_sets.items():
        if name in needs:
            engine.on_first_rank(lambda n=name, f=folder: made.make(n, f, 40))
    return replace(
        config,
        out=out,
        **made_sets,
        synthetic_count=40,
        px=32,
        batch=8,
        teacher_epochs=1,
        student_epochs=1,
        distill_epochs=1,
        target_epochs=1,
        lr=1e-3,
    )


# ---- stages --------------------------------------------------------------------------------------
MODULES = {
    teacher.Teacher: teacher,
    student.Student: student,
    distill.Distill: distill,
    target.Target: target,
}


def all_stages(config, rows, seed):
    """{stage: settings} of the rows and all that they need, in an order in which they can be
    run."""
    plan = {}

    def add(name):
        family, kind = name.split("/")
        for need in (
            NEEDS.get(kind)
            if kind in NEEDS
            else [f"{SOURCE}/{'act-att' if 'prior' in REGULARISERS[kind] else 'student'}"]
        ):
            add(need if "/" in need else f"{family}/{need}")
        plan[name] = (
            source_stage(config, family, kind, seed)
            if kind in NEEDS
            else target_stage(config, family, kind, seed)
        )

    for row in rows:
        add(row)
    return plan


NEEDS = {
    "teacher": [],
    "student": [],
    "continued": ["student"],
    "act": ["teacher", "student"],
    "act-att": ["teacher", "student"],
}


def source_stage(config, family, kind, seed):
    """Settings of a stage on RHD. family: r18, r18-a (with 𝒜), r50-a; kind: a key of NEEDS."""
    data, home = Path(config.out) / "data", Path(config.out) / f"seed-{seed}" / family
    shared = {
        "data": str(data / "rhd-training"),
        "test": str(data / "rhd-evaluation"),
        "out": str(home / kind),
        "batch": config.batch,
        "extra": str(data / "synthetic") if family.endswith("-a") else "",
        "lr": config.lr,
        "seed": seed,
        "precision": config.precision,
    }
    net = {
        "backbone": BACKBONES[family.split("-")[0]],
        "px": config.px,
        "width": 0.125 if config.quick else 1.0,
    }
    if kind == "teacher":
        return teacher.Teacher(epochs=config.teacher_epochs, **net, **shared)
    if kind == "student":
        return student.Student(epochs=config.student_epochs, **net, **shared)
    if kind == "continued":
        return student.Student(
            epochs=config.distill_epochs,
            start=str(home / "student/student.safetensors"),
            **net,
            **shared,
        )
    return distill.Distill(
        epochs=config.distill_epochs,
        student=str(home / "student"),
        teacher=str(home / "teacher"),
        attention_weight=config.attention_weight if kind == "act-att" else 0.0,
        exponents=(1, 2) if kind == "act-att" else (),
        **shared,
    )


def target_stage(config, data, row, seed):
    """Settings of a row on a target: data is stb or freihand-<domain>, row a key of
    REGULARISERS."""
    packed, home = Path(config.out) / "data", Path(config.out) / f"seed-{seed}"
    settings = dict(REGULARISERS[row])
    if "prior" in settings:
        settings["prior"] = str(home / SOURCE / "act-att" / f"{settings['prior']}.safetensors")
    return target.Target(
        data=str(packed / f"{data}-train"),
        test=str(packed / f"{data}-test"),
        out=str(home / data / row),
        student=str(home / SOURCE / "student"),
        source=str(packed / "rhd-training"),
        epochs=config.target_epochs,
        batch=config.batch,
        lr=config.lr,
        seed=seed,
        precision=config.precision,
        **settings,
    )


# ---- data ----------------------------------------------------------------------------------------
def sources_needed(plan):
    """Names of the packed sets that the stages read, in their order."""
    paths = [getattr(s, f, "") for s in plan.values() for f in ("data", "extra", "test")]
    return list(dict.fromkeys(Path(p).name for p in paths if p))


def sources_of(config, plan):
    """{name of packed set: dataset} of the stages. Raises InputError where a folder is not given
    or not there."""
    px = -(-config.px * 5 // 4)  # a margin of 1.25 boxes

    def folder(name):
        return getattr(config, name) or _not_given(name)

    datasets = {
        "rhd-training": lambda: Rhd(folder("rhd"), "training", px),
        "rhd-evaluation": lambda: Rhd(folder("rhd"), "evaluation", px),
        "stb-train": lambda: Stb(folder("stb"), "train", px=px),
        "stb-test": lambda: Stb(folder("stb"), "test", px=px),
        "synthetic": lambda: render.dataset(
            render.Render(
                count=config.synthetic_count,
                px=px + px % 2,
                noisy_depth=False,
                mano=config.mano,
                textures=config.textures,
            )
        ),
    }
    for domain in DOMAINS:
        for split in ("train", "test"):
            datasets[f"freihand-{domain}-{split}"] = lambda d=domain, s=split: FreiHand(
                folder("freihand"), s, d, px
            )
    found = {name: datasets[name]() for name in sources_needed(plan)}
    return {name: few(d) for name, d in found.items()} if config.quick else found


def few(dataset, most=200):
    """For --quick: about `most` samples of a larger dataset."""
    return Shard(dataset, f"0/{len(dataset) // most}") if len(dataset) >= 2 * most else dataset


def _not_given(name):
    raise InputError(
        f"--{name}: expected the dataset's folder, got none; give it, or --quick to try "
        "everything with made data"
    )


# ---- what it costs -------------------------------------------------------------------------------
def print_plan(config, stages, sizes):
    """Prints the rows, and the hours of what is not finished yet, from a few steps measured
    here."""
    measured, total = {}, 0.0
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "this CPU"
    engine.say(f"{config.preset}: rows {', '.join(config.rows or ROWS[config.preset])}")
    for seed, plan in stages.items():
        for stage, settings in plan.items():
            if (Path(settings.out) / "result.json").exists():
                engine.say(f"  seed {seed}  {stage:26} finished")
                continue
            key = cost_key(config, stage, settings)
            measured[key] = measured.get(key) or seconds_per_step(*key)
            count = sum(
                sizes[Path(p).name] for p in (settings.data, getattr(settings, "extra", "")) if p
            )
            steps = settings.epochs * (count // min(settings.batch, count))
            total += steps * measured[key]
            engine.say(
                f"  seed {seed}  {stage:26} {steps:8} steps of {1000 * measured[key]:7.0f} ms  "
                f"{steps * measured[key] / 3600:8.2f} h"
            )
    engine.say(
        f"  all: {total / 3600:.2f} hours on {name}, from steps measured now; rendering, "
        "packing and tests not counted"
    )


def cost_key(config, stage, settings):
    """(kind of step, backbone, width, px, batch, precision) of a stage."""
    kind = {
        teacher.Teacher: "teacher",
        distill.Distill: "meta" if getattr(settings, "exponents", ()) else "distil",
    }.get(type(settings), "student")
    family = stage.split("/")[0] if stage.startswith("r") else SOURCE
    return (
        kind,
        BACKBONES[family.split("-")[0]],
        0.125 if config.quick else 1.0,
        config.px,
        config.batch,
        config.precision,
    )


def seconds_per_step(kind, backbone, width, px, batch, precision, steps=2):
    """Seconds of one optimisation step on made tensors, after one to warm up."""
    fabric = engine.launch(precision)
    student, teacher = (pose_net(backbone, width, c).to(fabric.device) for c in (3, 1))
    tap, teacher_tap = (
        FeatureTap(student, student.feature_layers),
        FeatureTap(teacher, teacher.feature_layers),
    )
    x, depth, y = (
        torch.randn(batch, *shape, device=fabric.device)
        for shape in ((3, px, px), (1, px, px), (21, 3))
    )
    x, depth = channels_last(x), channels_last(depth)
    model, picture = (teacher, depth) if kind == "teacher" else (student, x)
    optimizer = torch.optim.Adam(model.parameters(), 1e-9)
    priors = [Prior.constant(student, 0.0, p) for p in (1, 2)]
    networks, context = (
        (student, tap, teacher, teacher_tap, optimizer),
        {"context": fabric.autocast},
    )
    step = {
        "meta": lambda: meta_step(*networks, priors, x, depth, y, 1e-9, 1e-9, **context),
        "distil": lambda: distil_step(*networks, x, depth, y, **context),
    }.get(kind, lambda: supervised_step(model, optimizer, picture, y, regression_loss, **context))
    step()
    began = time.perf_counter()
    for _ in range(steps):
        step()  # returns floats: the device has finished
    return (time.perf_counter() - began) / steps
