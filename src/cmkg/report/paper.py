"""The rows of the paper's tables and figures that a folder holds, beside the paper's numbers and
published curves."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np

from .. import engine
from ..hands.datasets.packed import Packed
from . import plots
from .collect import spread
from .page import template

TITLES = {
    "table1": "Table 1: RHD, the source",
    "table2": "Table 2: STB, the target",
    "table3": "Table 3: FreiHAND's domains and STB",
    "figure4": "Figure 4: joints within a distance",
    "figure5": "Figure 5: weights of the target student",
    "figure6": "Figure 6: test pictures",
}
PICTURES = 6


def write(out):
    """Writes paper.json, paper.md and paper.html into the folder of `cmkg run table1` ...;
    returns what they hold."""
    out = Path(out)
    found = collect(out)
    engine.write_json(out / "paper.json", found)
    engine.write_atomically(
        out / "paper.md", lambda p: p.write_text(markdown(found), encoding="utf-8")
    )
    page = template("paper.html").render(
        found=found,
        titles=TITLES,
        curves=curves(found),
        weights=weights(found),
        sheet=sheet(out, found),
    )
    engine.write_atomically(out / "paper.html", lambda p: p.write_text(page, encoding="utf-8"))
    return found


def collect(out):
    """{"presets": {preset: [row]}, "made": whether made data were used, "commits", "commands"}."""
    rows = engine.read_json(out / "paper_rows.json")
    return {
        "presets": {
            preset: [row(out, stage, *facts) for stage, facts in stages.items()]
            for preset, stages in rows.items()
        },
        "made": any(engine.read_json(p)["holds"].get("made") for p in out.glob("data/*/meta.json")),
        **sessions(out),
    }


def row(out, stage, label, paper_epe_mm, paper_auc=None):
    """One row: the paper's numbers, and ours over the seeds that are finished; None where it was
    not run."""
    results = [engine.read_json(p) for p in sorted(out.glob(f"seed-*/{stage}/result.json"))]

    def mean(key):
        return np.mean([r[key] for r in results], 0).round(5).tolist()

    ours = (
        {
            "epe_mm": spread([r["epe_mm"] for r in results]),
            "auc_20_50": spread([r["auc_20_50"] for r in results]),
            "pck": mean("pck"),
            "weights": results[0].get("weights"),
            "hours": sum(r["seconds"] for r in results) / 3600,
        }
        if results
        else None
    )
    return {
        "stage": stage,
        "label": label,
        "paper_epe_mm": paper_epe_mm,
        "paper_auc": paper_auc,
        "ours": ours,
    }


def sessions(out):
    held = [
        s for p in out.glob("seed-*/*/*/environment.json") for s in engine.read_json(p)["sessions"]
    ]
    held.sort(key=lambda s: s["started"])
    return {
        "commits": list(dict.fromkeys(s["commit"] for s in held)),
        "machines": list(
            dict.fromkeys(s["machine"]["gpu"] or s["machine"]["processor"] for s in held)
        ),
        "sets": {
            p.parent.name: engine.read_json(p)["holds"]["count"]
            for p in sorted(out.glob("data/*/meta.json"))
        },
    }


def markdown(found):
    lines = (
        ["Made data: these numbers show that the chain runs, nothing else.", ""]
        if found["made"]
        else []
    )

    def value(v, digits):
        return "" if v is None else f"{v:.{digits}f}"

    for preset in ("table1", "table2", "table3"):
        lines += [
            f"### {TITLES[preset]}",
            "",
            "| row | EPE, mm | AUC 20–50 | paper: EPE | paper: AUC |",
            "| :-- | --: | --: | --: | --: |",
        ]
        for r in found["presets"][preset]:
            lines.append(
                f"| {r['label']} | {mean(r, 'epe_mm', 2)} | {mean(r, 'auc_20_50', 3)} | "
                f"{value(r['paper_epe_mm'], 2)} | {value(r['paper_auc'], 3)} |"
            )
        lines.append("")
    return "\n".join(lines)


def mean(r, key, digits):
    """ "12.34 ± 0.05", or "not run"."""
    if not r["ours"]:
        return "not run"
    s = r["ours"][key]
    return f"{s['mean']:.{digits}f}" + (f" ± {s['sd']:.{digits}f}" if s["sd"] is not None else "")


# ---- figures -------------------------------------------------------------------------------------
def published():
    """{dataset: [(method, AUC, thresholds, pck)]} of published_pck.csv, read off the papers' own
    figures."""
    curves = defaultdict(list)
    with open(Path(__file__).with_name("published_pck.csv"), newline="") as f:
        for line in csv.DictReader(f):
            curves[line["dataset"], line["method"], float(line["published_auc_20_50"])].append(
                (float(line["threshold_mm"]), float(line["pck"]))
            )
    sets = defaultdict(list)
    for (dataset, method, auc), points in curves.items():
        sets[dataset].append((method, auc, *zip(*sorted(points), strict=False)))
    return sets


def curves(found):
    """{dataset: svg} of figure 4: ours, where run, over the published curves."""
    rows = [r for r in found["presets"]["figure4"] if r["ours"]]
    own = {
        "RHD": [r for r in rows if not r["stage"].startswith("stb")],
        "STB": [r for r in rows if r["stage"].startswith("stb")],
    }
    return {
        name: plots.published_curves(
            [(r["label"].replace("𝒜", "A"), r["ours"]) for r in own[name]], published()[name]
        )
        for name in ("RHD", "STB")
    }


def weights(found):
    """Figure 5: svg, or None where no row was run."""
    rows = [
        {"label": r["label"], "weights": r["ours"]["weights"]}
        for r in found["presets"]["figure5"]
        if r["ours"]
    ]
    return plots.weight_histograms(rows) if rows else None


def sheet(out, found):
    """Figure 6: {row label: [picture]} of evenly spaced test pictures, the true skeletons first."""
    shown = {}
    for r in found["presets"]["figure6"]:
        paths = sorted(out.glob(f"seed-*/{r['stage']}/predictions.npz"))
        if not r["ours"] or not paths:
            continue
        family = r["stage"].split("/")[0]
        packed = Packed(
            out / "data" / ("rhd-evaluation" if family.startswith("r") else f"{family}-test")
        )
        for label, pictures in skeletons(packed, np.load(paths[0])).items():
            shown[f"{family}, {label}" if label == "true" else f"{family}, {r['label']}"] = pictures
    return shown


def skeletons(packed, predicted):
    pictures = defaultdict(list)
    for i in np.linspace(0, len(packed) - 1, min(PICTURES, len(packed))).round().astype(int):
        rgb, K, true = (
            np.array(packed.rgb[i]),
            np.array(packed.K[i], float),
            np.array(packed.joints_mm[i], float),
        )
        joints = predicted["prediction"][i] * predicted["scale_mm"][i] + true[0]
        pictures["true"].append(plots.jpeg_uri(plots.skeleton_picture(rgb, K, true)))
        pictures["predicted"].append(plots.jpeg_uri(plots.skeleton_picture(rgb, K, joints)))
    return pictures
