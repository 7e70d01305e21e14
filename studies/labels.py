"""How large is the gain from depth with few and with many labels?

    python -m studies.labels --out runs/labels

For each number of labels: a student trained on them alone, a teacher on their depth, and a student
distilled from the teacher on all pairs; each takes the same number of steps. The protocol is
docs/study.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from cmkg.hands.commands.any_stage import run_stage
from cmkg.hands.commands.distill import Distill
from cmkg.hands.experiments.demo_settings import SMALL_NET
from cmkg.hands.network.posenet import NetConfig
from cmkg.hands.report.collect import spread
from cmkg.hands.stages.stage_settings import Flat
from cmkg.runtime.checks import expect_at_least_one, expect_different_seeds, expect_positive
from cmkg.runtime.distributed import Precision
from cmkg.runtime.files import write_json, write_text
from cmkg.runtime.progress import say
from cmkg.runtime.run_records import read_result
from cmkg.runtime.settings import settings_of
from studies.chart import draw_labels
from studies.program import main
from studies.worth import Worth, describe_sessions_of, make_data, source_stages

STAGES = {
    "student": "labels only",
    "depth": "taught by depth on all pairs",
    "teacher": "depth itself",
}


@dataclass(frozen=True)
class Labels:
    """Measure the gain from depth over the number of labels."""

    out: str = "runs/labels"
    count: int = 5000
    """Number of pairs in the source; also the largest number of labels."""
    labels: tuple[int, ...] = (60, 125, 250, 500, 1000)
    epochs: int = 6
    batch: int = 32
    lr: float = 4e-3
    seeds: tuple[int, ...] = (0, 1, 2)
    net: Annotated[NetConfig, Flat] = field(default_factory=lambda: SMALL_NET)
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        expect_positive(self, "count", "epochs", "batch", "lr")
        expect_at_least_one(self, "labels")
        expect_different_seeds(self.seeds)


def run(config: Labels) -> None:
    """Runs all unfinished trainings, seed by seed; writes labels.json and labels.svg."""
    out = Path(config.out)
    for seed in config.seeds:
        for labels in (*config.labels, 0):
            worth = Worth(
                count=config.count,
                labels=labels or config.count,
                epochs=config.epochs,
                batch=config.batch,
                lr=config.lr,
                target_frames=8,
                net=config.net,
                precision=config.precision,
            )
            make_data(worth, out / "data")
            home = out / f"labels-{worth.labels}" / f"source-{seed}"
            stages = source_stages(worth, home, out / "data", seed)
            depth = stages["depth"]
            assert isinstance(depth, Distill)
            stages["depth"] = replace(depth, phi=replace(depth.phi, exponents=()))
            for name in ("student", "teacher", "depth") if labels else ("student",):
                result = run_stage(stages[name])
                say(f"{worth.labels} labels, seed {seed}, {name}: EPE {result['epe_mm']:.2f} mm")
        results = collect(config)
        write_json(out / "labels.json", results)
        write_text(out / "labels.svg", draw_labels(results))


def collect(config: Labels) -> dict[str, Any]:
    """{"cells": one for each number of labels}, over the seeds that have finished it."""
    cells = []
    for labels in (*config.labels, config.count):
        rows = []
        for name, label in STAGES.items():
            homes = Path(config.out) / f"labels-{labels}"
            files = sorted(homes.glob(f"source-*/{name}/result.json"))
            if files:
                errors = [read_result(file)["epe_mm"] for file in files]
                rows.append({"name": name, "label": label, "epe_mm": spread(errors)})
        if rows:
            cells.append({"target": str(labels), "rows": rows})
    results = {"cells": cells, "settings": settings_of(config)}
    return results | describe_sessions_of(Path(config.out))


if __name__ == "__main__":
    main(run, Labels)
