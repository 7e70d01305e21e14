"""`cmkg run sources`: how much of a target's table is the source's chance, and what do several
sources give together?

The source stages of a finished run are trained anew from other seeds (theta_0 and order), and
once from its own theta_0 on other renderings; the priors of the two are merged.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from .. import engine
from ..families import MERGES, merged
from ..hands.augment import Augmentation
from ..prior import Prior
from . import experiment, render, study
from .common import at_least_one, positive, seeds_from_zero


@dataclass(frozen=True)
class Sources:
    base: str = "runs/demo"
    """Folder of a finished `cmkg run demo`: its data, and the first source."""
    out: str = "runs/sources"
    source_seeds: tuple[int, ...] = (1, 2)
    """More sources: other theta_0, other order."""
    epochs: int = 10
    """Of each training on the target."""
    seeds: tuple[int, ...] = (0, 1, 2)
    tries: tuple[float, ...] = (1.0, 10.0, 100.0)
    rows: tuple[str, ...] = ("none", "l2", "prior-p2", "fine-tune-student", "fine-tune-distilled")
    precision: engine.Precision = "auto"
    augmentation: Augmentation = experiment.TARGET_AUGMENTATION

    def __post_init__(self):
        positive(self, "epochs")
        at_least_one(self, "tries", "rows")
        seeds_from_zero(self.seeds)


PRESETS = {
    "sources": ("A finished run's source from other seeds, and several sources merged.", Sources())
}
OTHER_DATA = 50  # added to the source's seed for other renderings


def run(config: Sources):
    out, base = Path(config.out), Path(config.base)
    engine.Run(out, config)
    settings = experiment.Experiment(**study.saved(base))
    data, blocks = study.targets(replace(study.Study(), base=str(base)), base, settings)
    homes = {"source-0": base} | {
        f"source-{s}": train_source(settings, base, out / f"source-{s}/stages", s)
        for s in config.source_seeds
    }
    for name, home in homes.items():
        known = study.rows(home, out)
        rows_of(
            config,
            settings,
            out / name,
            study.chosen(known, config.rows, "--rows"),
            data,
            blocks,
            home,
        )
    rows_of(
        config,
        settings,
        out / "several",
        several(settings, base, out / "several/stages"),
        data,
        blocks,
        base,
    )
    study.write_cells(out, [*homes, "several"])


def rows_of(config, settings, cell, plan, data, blocks, home):
    folders = {
        "data": str(data / "target"),
        "test": str(data / "target-test"),
        "student": str(home / "student"),
        "source": str(data / "source"),
    }
    study.run_rows(
        study.shared(settings, config, cell, config.epochs),
        cell,
        plan,
        blocks,
        folders,
        {"target": cell.name, "base": home.name},
    )


def train_source(settings, base, home, seed):
    """Teacher, student, its continuation and the distilled one from another seed, on the same
    pictures."""
    for name, stage in experiment.source_stages(
        replace(settings, seeds=(seed,), wide_count=0), home
    ).items():
        engine.say(f"{home.parent.name}: {name}")
        experiment.STAGE[name].run(
            replace(stage, data=str(base / "data/source"), test=str(base / "data/source-test"))
        )
    return home


def several(settings, base, home):
    """Rows with the priors of two sources merged: the same theta_0 and teacher, other
    renderings."""
    other = replace(
        render.Render(
            px=experiment.stored_px(settings.px),
            views_deg=settings.views_deg,
            backgrounds=settings.backgrounds,
        ),
        seed=settings.seeds[0] + OTHER_DATA,
        count=settings.source_count,
        out=str(home / "data"),
    )
    render.run(other)
    stages = experiment.source_stages(settings, base)
    for name in ("student", "distill"):
        engine.say(f"several: {name}")
        changes = {"student": str(home / "student"), "exponents": (2,)} if name == "distill" else {}
        experiment.STAGE[name].run(
            replace(stages[name], data=str(home / "data"), out=str(home / name), **changes)
        )
    priors = [Prior.load(folder / "distill/prior_p2.safetensors") for folder in (base, home)]

    def row(label, path):
        return {"label": label, "tuned": True, "settings": {"prior": str(path)}}

    plan = {
        "prior-other": row(
            "prior, p = 2, of the other source", home / "distill/prior_p2.safetensors"
        )
    }
    # a run of an older version kept none: nothing to weigh by
    noisy = all(p.variance for p in priors)
    for how in [m for m in MERGES if noisy or m != "precision"]:
        path = home / f"merged_{how}.safetensors"
        if not path.exists():
            engine.on_first_rank(partial(merged(priors, how).save, path))
        plan[f"merged-{how}"] = row(f"priors of two sources, merged by {how}", path)
    return plan
