"""Collects a run folder into one dictionary with everything that a report shows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...runtime.files import read_file
from ...runtime.run_records import AGAIN, expect_shape, read_log, read_settings
from ...runtime.settings import flatten_settings
from ..datasets.packed.format import read_meta, subsets_in
from .report_files import (
    PlanSettings,
    TargetScore,
    read_environment,
    read_plan,
    read_quantiles,
    read_score,
    read_tried,
)

UNTRAINED = {
    "mean-pose": "mean training pose",
    "untouched-student": "labels only, untouched",
    "untouched-rgb": "control: taught by RGB, untouched",
    "untouched-shuffled": "control: taught by shuffled depth, untouched",
    "untouched-depth": "taught by depth, untouched",
    "untouched-all": "all labels, untouched",
}
SOURCE_LABELS = {
    "student": "labels only",
    "rgb": "control: taught by RGB",
    "shuffled": "control: taught by shuffled depth",
    "depth": "taught by depth",
    "all": "all labels",
    "teacher": "depth itself (the teacher)",
}
TARGETS = {
    "folder": "recordings",
    "rendered": "rendered, STB-like: one person, one camera, RGB only",
}
SETS = ("source", "source-test", "target", "target-test")
NO_TERMS = ("step", "images_per_s")  # fields of metrics.jsonl that are not losses

Facts = dict[str, Any]


def spread(values: Sequence[float]) -> Facts:
    """Mean and sample standard deviation over seeds."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": deviation, "values": list(values)}


def format_spread(spread: Mapping[str, Any], digits: int = 2) -> str:
    """Formats as "12.34 ± 0.05"; for one seed, the mean alone."""
    deviation = "" if spread["sd"] is None else f" ± {spread['sd']:.{digits}f}"
    return f"{spread['mean']:.{digits}f}{deviation}"


def format_strength(row: Mapping[str, Any]) -> str:
    """The chosen sigma, with a star if it is the smallest or largest tried; or the epochs."""
    tried = row["tried"]
    if tried and tried.get("setting") == "epochs":
        return f"{tried['chosen']} epochs"
    return f"{tried['chosen']:g}{'*' if tried['at_the_edge'] else ''}" if tried else ""


def row_folder(out: Path, name: str) -> Path:
    """The folder of a row's seeds: below the chosen strength, if the row was tuned."""
    return chosen_folder(Path(out) / "target" / name)


def chosen_folder(home: Path) -> Path:
    """The folder below a row's folder that holds its seeds."""
    if not (home / "tried.json").exists():
        return home
    tried = read_tried(home / "tried.json")
    return home / f"{tried.get('setting', 'sigma')}-{tried['chosen']:g}"


def seed_results(home: Path) -> list[Path]:
    """The result of every finished seed of a folder, ordered by seed.

    Raises:
        InputError: there are none.
    """
    numbered = {}
    for path in home.glob("seed-*/result.json"):
        number = path.parent.name.removeprefix("seed-")
        if number.isdecimal():
            numbered[int(number)] = path
    if not numbered:
        raise InputError(f"{home}: expected a finished seed, seed-0/result.json; {AGAIN}")
    return [numbered[number] for number in sorted(numbered)]


def collect_row(out: Path, row: Mapping[str, Any]) -> Facts:
    """A trained row of a run's folder."""
    whole = Path(out) / "target" / row["name"]
    paths = seed_results(row_folder(out, row["name"]))
    results = [read_score(path, out, TargetScore) for path in paths]
    tried = whole / "tried.json"
    return {
        "name": row["name"],
        "label": row["label"],
        "trained": True,
        "epe_mm": spread([result["epe_mm"] for result in results]),
        "auc_20_50": spread([result["auc_20_50"] for result in results]),
        "pck": np.mean([result["pck"] for result in results], 0).tolist(),
        "per_joint_mm": np.mean([result["epe_per_joint_mm"] for result in results], 0).tolist(),
        "weights": results[0]["weights"],
        "epochs": flatten_settings(read_settings(paths[0].with_name("config.json"))).get("epochs"),
        "tried": read_tried(tried) if tried.exists() else None,
        "seconds": sum(
            read_score(path, out).get("seconds", 0.0) for path in whole.rglob("result.json")
        ),
    }


def collect_untrained_row(out: Path, name: str) -> Facts:
    """A row without training on the target."""
    result = read_score(Path(out) / "target" / name / "result.json", out)
    return {
        "name": name,
        "label": UNTRAINED[name],
        "trained": False,
        "epe_mm": spread([result["epe_mm"]]),
        "auc_20_50": spread([result["auc_20_50"]]),
        "pck": result["pck"],
        "per_joint_mm": result["epe_per_joint_mm"],
        "tried": None,
    }


def collect_run(out: Path) -> Facts:
    """Everything about one `cmkg run` folder."""
    out = Path(out)
    before = _digest_of(out)
    plan = read_plan(out / "rows.json")
    if missing := [name for name in SOURCE_LABELS if name not in plan["stages"]]:
        raise InputError(f"{out}/rows.json: field 'stages' lacks {missing[0]!r}; {AGAIN}")
    sessions = []
    for folder in ("", *plan["stages"]):
        sessions += read_environment(out / folder / "environment.json")
    settings = flatten_settings(plan["settings"])
    expect_shape(settings, PlanSettings, out / "rows.json")
    hide_folders(settings, sessions)
    rows = [collect_untrained_row(out, name) for name in UNTRAINED]
    rows += [collect_row(out, row) for row in plan["rows"]]
    trained = [row for row in rows if row["trained"]]
    if _digest_of(out) != before:
        raise InputError(f"{out}: was changed while it was read; write the report again")
    best = min(trained, key=lambda row: row["epe_mm"]["mean"])
    sources = {name: read_score(out / name / "result.json", out) for name in plan["stages"]}
    seconds = {name: result.get("seconds", 0.0) for name, result in sources.items()}
    return {
        "target": TARGETS.get(settings["target"], settings["target"]),
        "rows": rows,
        "best": best["name"],
        "source": [
            {
                "name": name,
                "label": label,
                "epe_mm": sources[name]["epe_mm"],
                "auc_20_50": sources[name]["auc_20_50"],
            }
            for name, label in SOURCE_LABELS.items()
        ],
        "phi": read_phi(out / "depth/prior_p2.json"),
        "worth": worth_of(rows, sources),
        "blocks": plan["blocks"],
        "settings": settings,
        "sessions": sorted(sessions, key=lambda session: session["started"]),
        "seconds": seconds | {"target rows": sum(row["seconds"] for row in trained)},
        "counts": {name: read_meta(out / f"data/{name}")["arrays"]["rgb"][0][0] for name in SETS},
        "subsets": subsets_in(out / "data"),
        "loss_shares": loss_shares(out / "depth/metrics.jsonl"),
    }


def _digest_of(out: Path) -> str:
    """A digest of all results of a run, to verify that a report reads one consistent state."""
    digest = hashlib.sha256()
    for path in sorted(out.rglob("result.json")):
        digest.update(str(path.relative_to(out)).encode() + read_file(path, "a result"))
    return digest.hexdigest()


def read_phi(path: Path) -> Facts:
    """{title: a learned prior's quantiles}; empty if no prior was learned."""
    return {"p = 2": read_quantiles(path)} if path.exists() else {}


def worth_of(rows: Sequence[Facts], sources: Mapping[str, Facts]) -> list[Facts]:
    """The gain from depth in each place: labels only, both controls, distilled, all labels."""
    errors = {row["name"]: row["epe_mm"]["mean"] for row in rows}
    names = ("student", "rgb", "shuffled", "depth", "all")
    places = [
        ("the source", {name: sources[name]["epe_mm"] for name in names}),
        ("the target, untouched", {name: errors[f"untouched-{name}"] for name in names}),
        (
            "the target, trained on",
            {name: errors[f"tuned-{name}"] for name in names if f"tuned-{name}" in errors},
        ),
    ]
    return [
        {
            "place": place,
            "epe_mm": errors_there,
            "gain_mm": errors_there["student"] - errors_there["depth"],
        }
        for place, errors_there in places
    ]


def hide_folders(settings: Facts, sessions: Sequence[Facts]) -> None:
    """Shortens absolute paths to their last part, because a report may be shared."""
    for key in ("out", "root", "backgrounds"):
        if key not in settings:
            continue
        setting = settings[key]
        is_single = isinstance(setting, str)
        folders = [setting] if is_single else list(setting)
        shown = [Path(folder).name if Path(folder).is_absolute() else folder for folder in folders]
        settings[key] = shown[0] if is_single else shown
        for folder, name in zip(folders, shown, strict=True):
            quoted = folder.replace("'", "'\"'\"'")  # its form when shell-quoted in a command
            for session in sessions:
                session["command"] = session["command"].replace(folder, name).replace(quoted, name)


def loss_shares(path: Path) -> dict[str, float]:
    """The share of each term of G over distillation's last tenth; weights depend on the units."""
    lines = read_log(path)
    last = lines[-max(len(lines) // 10, 1) :]
    terms: dict[str, float] = {}
    for line in last:
        for name, value in line.items():
            if name not in NO_TERMS and not name.startswith("outer_"):
                terms[name] = terms.get(name, 0.0) + value
    total = sum(terms.values())
    return {name: value / total for name, value in terms.items()} if total > 0 else {}
