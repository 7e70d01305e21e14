"""The study's table: every row beside two references, paired by seed, with bootstrap intervals."""

from pathlib import Path

import numpy as np

from .. import engine
from . import plots
from .collect import hide_folders, target_row

REFERENCES = {"l2": "tuned ℓ²", "fine-tune-distilled": "fine-tuning"}
# where a study's rows are the ingredients of the best one
PLAIN = {"fine-tune-student": "plain fine-tuning"}


def interval(values, draws=10_000, level=0.95):
    """Percentile bootstrap of the mean: (low, high). With few seeds it is rough, and rather too
    narrow.

    >>> low, high = interval([1.0, 1.0, 1.0])
    >>> (float(low), float(high))
    (1.0, 1.0)
    """
    values = np.asarray(values)
    means = values[np.random.default_rng(0).integers(0, len(values), (draws, len(values)))].mean(1)
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2])


def made_by(out):
    """Commits, commands and machine of the sessions that wrote a folder; of the user's own
    folders the last part only."""
    sessions = engine.read_json(out / "environment.json")["sessions"]
    hide_folders(engine.read_json(out / "config.json"), sessions)

    def every(key):
        return list(dict.fromkeys(s[key] for s in sessions))

    return {
        "commits": every("commit"),
        "commands": every("command"),
        "machine": sessions[-1]["machine"],
    }


def collect(out):
    """The rows of a study's folder."""
    out = Path(out)
    plan = engine.read_json(out / "study_rows.json")
    diverged = [r for r in plan["rows"] if (out / "target" / r["name"] / "diverged.json").exists()]
    rows = [target_row(Path(r.get("home", out)), r) for r in plan["rows"] if r not in diverged]
    by_name = {r["name"]: np.array(r["epe_mm"]["values"]) for r in rows}
    for r in rows:
        r["against"] = {
            ref: difference(by_name[r["name"]], by_name[ref])
            for ref in references(by_name)
            if ref in by_name and ref != r["name"]
        }
        for bulky in ("weights", "pck", "per_joint_mm"):
            r.pop(bulky)
    return {"rows": rows, "diverged": diverged} | {
        k: plan[k] for k in ("target", "epochs", "seeds", "tries", "base")
    }


def references(names):
    """{name: what the column is called}: the rows that all others are compared with."""
    return REFERENCES if "l2" in names else PLAIN


def difference(values, reference):
    """Row minus reference, paired by seed: mean and interval in mm; below zero is better than
    the reference."""
    paired = values - reference
    return {
        "mean": float(paired.mean()),
        "share": float(paired.mean() / reference.mean()),
        "interval": [float(x) for x in interval(paired)],
    }


def markdown(found):
    compared = references([r["name"] for r in found["rows"]])
    against = " | ".join(f"against {label}" for label in compared.values())
    lines = [
        f"| row, {found['target']} | EPE, mm | σ | {against} |",
        f"| :-- | --: | --: |{' --: |' * len(compared)}",
    ]
    for r in found["rows"]:
        sigma = (
            f"{r['tried']['chosen']:g}{'*' if r['tried']['at_the_edge'] else ''}"
            if r["tried"]
            else ""
        )
        sd = f" ± {r['epe_mm']['sd']:.2f}" if r["epe_mm"]["sd"] is not None else ""
        cells = [told(r["against"].get(ref)) for ref in compared]
        lines.append(
            f"| {r['label']} | {r['epe_mm']['mean']:.2f}{sd} | {sigma} | {' | '.join(cells)} |"
        )
    lines += [
        f"| {r['label']} | diverged at every strength | |{' |' * len(compared)}"
        for r in found["diverged"]
    ]
    return "\n".join(lines) + "\n"


def chart(studies):
    """The rows' errors as SVG, a panel each of `studies` (what `collect` returns)."""
    return plots.error_chart(studies, references([r["name"] for r in studies[0]["rows"]]))


def told(d):
    share = f", {d['share']:+.0%}" if d and "share" in d else ""
    return (
        ""
        if d is None
        else f"{d['mean']:+.2f} [{d['interval'][0]:+.2f}, {d['interval'][1]:+.2f}]{share}"
    )


def write(out):
    """Writes study.json, study.md and study.svg into the folder of a `cmkg run study`; returns
    what the first holds."""
    out = Path(out)
    found = collect(out) | made_by(out)
    engine.write_atomically(
        out / "study.svg", lambda p: p.write_text(chart([found]), encoding="utf-8")
    )
    engine.write_json(out / "study.json", found)
    engine.write_atomically(
        out / "study.md", lambda p: p.write_text(markdown(found), encoding="utf-8")
    )
    return found


# ---- several small studies side by side ----------------------------------------------------------
def cells_markdown(found):
    """A row a row, a column a small study: EPE in mm over seeds, and the strength that was
    chosen."""
    labels = {
        r["name"]: r["label"] for cell in found["cells"] for r in [*cell["rows"], *cell["diverged"]]
    }
    names = [c["target"] for c in found["cells"]]
    lines = [f"| EPE, mm | {' | '.join(names)} |", f"| :-- |{' --: |' * len(names)}"]
    for name, label in labels.items():
        lines.append(f"| {label} | {' | '.join(cell_text(c, name) for c in found['cells'])} |")
    return "\n".join(lines) + "\n"


def cell_text(cell, name):
    row = next((r for r in cell["rows"] if r["name"] == name), None)
    if row is None:
        return "diverged" if any(r["name"] == name for r in cell["diverged"]) else ""
    sd = "" if row["epe_mm"]["sd"] is None else f" ± {row['epe_mm']['sd']:.2f}"
    tried = f" (σ {row['tried']['chosen']:g})" if row["tried"] else ""
    return f"{row['epe_mm']['mean']:.2f}{sd}{tried}"


def write_cells(out, names):
    """Writes cells.json and cells.md of the small studies `names` in `out`; returns what they
    hold."""
    found = {"cells": [collect(out / n) for n in names]} | made_by(out)
    engine.write_json(out / "cells.json", found)
    engine.write_atomically(
        out / "cells.md", lambda p: p.write_text(cells_markdown(found), encoding="utf-8")
    )
    return found


# ---- the regime ----------------------------------------------------------------------------------
def regime_markdown(found):
    """Three tables: what phi alone carries; how alike phi are; validation EPE over strength."""
    lines = [
        "| θ₀ moved by | cosine with the source's own displacement | EPE on the source, mm |",
        "| :-- | --: | --: |",
    ]
    lines += [
        f"| {r['label']} | {r['cosine']:.3f} | {metres(r['epe_mm'])} |"
        for r in found["carried"]["rows"]
    ]
    lines += ["", "| φ learned with | correlation with the run's φ |", "| :-- | --: |"]
    lines += [f"| {name} | {value:.3f} |" for name, value in found["alike"].items()]
    strengths = list(next(c for n, c in found["curves"].items() if n != "none"))
    lines += [
        "",
        f"| validation EPE, mm, at σ = | {' | '.join(strengths)} |",
        f"| :-- |{' --: |' * len(strengths)}",
    ]
    for name, curve in found["curves"].items():
        cells = (
            [curve[s] for s in strengths]
            if name != "none"
            else [curve["0"], *[[]] * (len(strengths) - 1)]
        )
        lines.append(f"| {name} | {' | '.join(map(point, cells))} |")
    return "\n".join(lines) + "\n"


def metres(epe_mm):
    return f"{epe_mm:.1f}" if epe_mm < 1e4 else "over 10 m"


def point(values):
    if not values:
        return ""
    finite = [v for v in values if v is not None]
    return f"{np.mean(finite):.1f}" if len(finite) == len(values) else "diverged"


def write_regime(out):
    """Writes regime.json and regime.md of a `cmkg run regime`; returns what they hold."""
    found = engine.read_json(out / "result.json") | made_by(out)
    engine.write_json(out / "regime.json", found)
    engine.write_atomically(
        out / "regime.md", lambda p: p.write_text(regime_markdown(found), encoding="utf-8")
    )
    return found
