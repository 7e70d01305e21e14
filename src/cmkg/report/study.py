"""The study's table: every row beside two references, paired by seed, with bootstrap intervals."""

from pathlib import Path

import numpy as np

from .. import engine
from .collect import target_row

REFERENCES = {"l2": "ℓ², tuned", "fine-tune-distilled": "fine-tuned distilled student"}


def interval(values, draws=10_000, level=0.95):
    """Percentile bootstrap of the mean: (low, high). With few seeds it is rough, and rather too narrow.

    >>> low, high = interval([1.0, 1.0, 1.0])
    >>> (float(low), float(high))
    (1.0, 1.0)
    """
    values = np.asarray(values)
    means = values[np.random.default_rng(0).integers(0, len(values), (draws, len(values)))].mean(1)
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2])


def collect(out):
    out = Path(out)
    plan = engine.read_json(out / "study_rows.json")
    diverged = [r for r in plan["rows"] if (out / "target" / r["name"] / "diverged.json").exists()]
    rows = [target_row(out, r) for r in plan["rows"] if r not in diverged]
    by_name = {r["name"]: np.array(r["epe_mm"]["values"]) for r in rows}
    for r in rows:
        r["against"] = {ref: difference(by_name[r["name"]], by_name[ref]) for ref in REFERENCES if ref in by_name and ref != r["name"]}
        for bulky in ("weights", "pck", "per_joint_mm"):
            r.pop(bulky)
    log = engine.read_json(out / "environment.json")["sessions"]
    return {"rows": rows, "diverged": diverged, "commits": list(dict.fromkeys(s["commit"] for s in log)), "machine": log[-1]["machine"]} | {k: plan[k] for k in ("target", "epochs", "seeds", "tries", "base")}


def difference(values, reference):
    """Row minus reference, paired by seed: mean and interval in mm; below zero is better than the reference."""
    paired = values - reference
    return {"mean": float(paired.mean()), "interval": [float(x) for x in interval(paired)]}


def markdown(found):
    lines = [f"| row, {found['target']} | EPE, mm | σ | against tuned ℓ² | against fine-tuning |", "| :-- | --: | --: | --: | --: |"]
    for r in found["rows"]:
        sigma = f"{r['tried']['chosen']:g}{'*' if r['tried']['at_the_edge'] else ''}" if r["tried"] else ""
        sd = f" ± {r['epe_mm']['sd']:.2f}" if r["epe_mm"]["sd"] is not None else ""
        cells = [told(r["against"].get(ref)) for ref in REFERENCES]
        lines.append(f"| {r['label']} | {r['epe_mm']['mean']:.2f}{sd} | {sigma} | {' | '.join(cells)} |")
    lines += [f"| {r['label']} | diverged at every strength | | | |" for r in found["diverged"]]
    return "\n".join(lines) + "\n"


def told(d):
    return "" if d is None else f"{d['mean']:+.2f} [{d['interval'][0]:+.2f}, {d['interval'][1]:+.2f}]"


def write(out):
    """Writes study.json and study.md into the folder of a `cmkg run study`; returns what they hold."""
    out = Path(out)
    found = collect(out)
    engine.write_json(out / "study.json", found)
    engine.write_atomically(out / "study.md", lambda p: p.write_text(markdown(found), encoding="utf-8"))
    return found
