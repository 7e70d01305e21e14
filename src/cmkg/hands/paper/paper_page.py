"""The rows of the paper's tables and figures that a folder holds.

They are shown next to the paper's numbers and published curves.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...runtime.files import write_json, write_text
from ...runtime.text import escape_markdown
from ..datasets.packed.format import Packed, read_meta, subsets_in
from ..report.collect import Facts, format_spread, spread
from ..report.plots import (
    PublishedCurve,
    jpeg_uri,
    plot_published_curves,
    plot_weight_histograms,
    skeleton_picture,
)
from ..report.report_files import (
    PaperScore,
    read_environment,
    read_paper_rows,
    read_saved_predictions,
    read_score,
)
from ..report.run_page import load_template, predicted_joints_mm, sample_pictures
from . import paper_claims

TITLES = {
    "table1": "Table 1: RHD, the source",
    "table2": "Table 2: STB, the target",
    "table3": "Table 3: FreiHAND's domains and STB",
    "figure4": "Figure 4: joints within a distance",
    "figure5": "Figure 5: weights of the target student",
    "figure6": "Figure 6: test pictures",
}
TABLES = ("table1", "table2", "table3")
OPEN = (
    "Rendered hands stand in for RHD, STB and FreiHAND: the rows' order can be compared with the "
    "paper's, not the millimetres."
)
CLAIMS = "Does the order hold?"
EXPLAIN_CLAIMS = (
    "Change of the error, in per cent; negative is better. RGB is trained for as many epochs as "
    "distilled. In brackets the lowest and the highest seed; undecided: the seeds disagree. (The "
    "last row is no error but a correlation; some of it is noise of the row without a regulariser, "
    "which both gains share.)"
)
MADE = "Made data: these numbers show that the chain runs, nothing else."


def write(out: Path, pictures: int) -> Facts:
    """Writes paper.json, paper.md and paper.html into the folder of `cmkg run table1` and others.

    Args:
        out: the folder.
        pictures: test pictures per row of figure 6.

    Returns:
        The contents of paper.json.
    """
    out = Path(out)
    paper = collect_paper(out)
    write_json(out / "paper.json", paper)
    write_text(out / "paper.md", format_paper_tables(paper))
    page = load_template("paper_page.html").render(
        found=paper,
        format_gain=paper_claims.format_gain,
        format_ours=paper_claims.format_ours,
        note=OPEN,
        claims_title=CLAIMS,
        explain_claims=EXPLAIN_CLAIMS,
        titles=TITLES,
        curves=draw_curves(paper),
        weights=draw_weights(paper),
        sheet=draw_paper_sheet(out, paper, pictures),
    )
    write_text(out / "paper.html", page)
    return paper


def collect_paper(out: Path) -> Facts:
    """{"presets": {preset: [row]}, "made": whether synthetic data was used, ...} of a run."""
    presets = {}
    rows = read_paper_rows(out / "paper_rows.json")
    paper_claims.expect_rows(rows, out / "paper_rows.json")
    for preset, stages in rows.items():
        presets[preset] = [collect_stage(out, stage, *facts) for stage, facts in stages.items()]
    sets = {path.parent.name: read_meta(path.parent) for path in out.glob("data/*/meta.json")}
    holds = {name: meta["holds"] for name, meta in sets.items()}
    made = any(set_facts.get("made") for set_facts in holds.values())
    is_open = any(
        set_facts.get("dataset") == "rendered"
        for name, set_facts in holds.items()
        if not name.startswith("synthetic")
    )
    claims = paper_claims.collect_claims(presets)
    weights = collect_weights(presets["figure5"])
    results = {"presets": presets, "claims": claims, "weights": weights}
    facts = {"made": made, "open": is_open, "subsets": subsets_in(out / "data")}
    return results | facts | collect_sessions(out)


def collect_weights(rows: list[Facts]) -> list[Facts]:
    """[{"label", "near_zero", "rms", "peak", "spread"}] of the finished rows of Fig. 5.

    These test the figure's two claims, relative to the first row, without R: peak is the ratio of
    the numbers of weights within 1e-3 of zero, spread the ratio of the root mean squares.
    """
    run = [row for row in rows if row["ours"]]
    if not run or run[0] is not rows[0]:
        return []
    first = run[0]["ours"]["weights"]
    return [
        {
            "label": row["label"],
            "near_zero": row["ours"]["weights"]["near_zero"],
            "rms": row["ours"]["weights"]["rms"],
            "peak": row["ours"]["weights"]["near_zero"] / max(first["near_zero"], 1e-9),
            "spread": row["ours"]["weights"]["rms"] / max(first["rms"], 1e-12),
        }
        for row in run
    ]


def collect_stage(
    out: Path, stage: str, label: str, paper_epe_mm: float | None, paper_auc: float | None
) -> Facts:
    """One row: the paper's numbers, and ours over the finished seeds; None if there are none."""
    paths = sorted(out.glob(f"seed-*/{stage}/result.json"))
    results = [read_score(path, out, PaperScore) for path in paths]
    ours = None
    if results:
        ours = {
            "epe_mm": spread([result["epe_mm"] for result in results]),
            "auc_20_50": spread([result["auc_20_50"] for result in results]),
            "pck": np.mean([result["pck"] for result in results], 0).round(5).tolist(),
            "seeds": [path.relative_to(out).parts[0] for path in paths],
            "weights": mean_weights([result.get("weights") for result in results]),
            "hours": sum(result.get("seconds", 0.0) for result in results) / 3600,
        }
    return {
        "stage": stage,
        "label": label,
        "paper_epe_mm": paper_epe_mm,
        "paper_auc": paper_auc,
        "ours": ours,
    }


def mean_weights(histograms: list[Any]) -> Facts | None:
    """Fig. 5's numbers of a row, averaged over seeds; None if the stage has none."""
    if not all(histograms):
        return None
    counts = np.mean([histogram["counts"] for histogram in histograms], 0).round(1).tolist()
    means = {
        name: np.mean([histogram[name] for histogram in histograms])
        for name in ("near_zero", "rms")
    }
    return {"edges": histograms[0]["edges"], "counts": counts} | {
        name: float(value) for name, value in means.items()
    }


def collect_sessions(out: Path) -> Facts:
    """The commits and machines that wrote the folder, and the sizes of its sets."""
    sessions = []
    for path in out.glob("seed-*/*/*/environment.json"):
        sessions += read_environment(path)
    sessions.sort(key=lambda session: session["started"])
    machines = [s["machine"]["gpu"] or s["machine"]["processor"] for s in sessions]
    metas = sorted(out.glob("data/*/meta.json"))
    return {
        "commits": list(dict.fromkeys(session["commit"] for session in sessions)),
        "machines": list(dict.fromkeys(machines)),
        "sets": {path.parent.name: read_meta(path.parent)["arrays"]["rgb"][0][0] for path in metas},
    }


def format_paper_tables(found: Mapping[str, Any]) -> str:
    """The three tables as Markdown, and the claims of the paper's text."""
    lines = [MADE, ""] if found["made"] else []
    lines += [OPEN, ""] if found["open"] else []
    lines += [line for sentence in found["subsets"] for line in (f"**{sentence}.**", "")]
    for preset in TABLES:
        lines += [
            f"### {TITLES[preset]}",
            "",
            "| row | EPE, mm | AUC 20–50 | paper: EPE | paper: AUC |",
            "| :-- | --: | --: | --: | --: |",
        ]
        for row in found["presets"][preset]:
            error, auc = format_our_error(row, "epe_mm", 2), format_our_error(row, "auc_20_50", 3)
            paper_auc = "" if row["paper_auc"] is None else f"{row['paper_auc']:.3f}"
            paper = "" if row["paper_epe_mm"] is None else f"{row['paper_epe_mm']:.2f}"
            label = escape_markdown(row["label"])
            lines.append(f"| {label} | {error} | {auc} | {paper} | {paper_auc} |")
        lines.append("")
    lines += [f"### {CLAIMS}", "", EXPLAIN_CLAIMS, "", *paper_claims.format_claims(found["claims"])]
    return "\n".join([*lines, ""])


def format_our_error(row: Mapping[str, Any], key: str, digits: int) -> str:
    """Formats an error as "12.34 ± 0.05", or "not run"."""
    return format_spread(row["ours"][key], digits) if row["ours"] else "not run"


# ---- figures -------------------------------------------------------------------------------------
def read_published_curves() -> dict[str, list[PublishedCurve]]:
    """{dataset: curves} of published_pck.csv, digitized from the papers' figures."""
    points = defaultdict(list)
    path = Path(__file__).with_name("published_pck.csv")
    with open(path, newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            key = line["dataset"], line["method"], float(line["published_auc_20_50"])
            points[key].append((float(line["threshold_mm"]), float(line["pck"])))
    sets = defaultdict(list)
    for (dataset, method, auc), pairs in points.items():
        thresholds, shares = zip(*pairs, strict=True)
        sets[dataset].append(PublishedCurve(method, auc, thresholds, shares))
    return dict(sets)


# The pairs that figure 4 shades: the row without this part of the method, and the row with it.
SHADED = {"RHD": ("r50-a/continued", "r50-a/act-att"), "STB": ("stb/none", "stb/prior-l2")}


def draw_curves(found: Mapping[str, Any]) -> dict[str, str]:
    """{dataset: SVG} of figure 4: our curves, if run, over the published ones."""
    rows = [row for row in found["presets"]["figure4"] if row["ours"]]
    published = read_published_curves()
    figures = {}
    for name, pair in SHADED.items():
        selected = [row for row in rows if row["stage"].startswith("stb") == (name == "STB")]
        stages = [row["stage"] for row in selected]
        below, above = pair
        gain = None
        if below in stages and above in stages:
            gain = stages.index(below), stages.index(above)
        ours = [(_curve_label(row), row["ours"]) for row in selected]
        figures[name] = plot_published_curves(ours, published[name], gain)
    return figures


def _curve_label(row: Facts) -> str:
    """A row's name, with the paper's AUC if it reports one."""
    label = row["label"].replace("𝒜", "A")
    return label if row["paper_auc"] is None else f"{label} (paper {row['paper_auc']:.3f})"


def draw_weights(found: Mapping[str, Any]) -> str | None:
    """Figure 5 as SVG, or None if no row was run."""
    rows = [
        {"label": row["label"], "weights": row["ours"]["weights"]}
        for row in found["presets"]["figure5"]
        if row["ours"]
    ]
    return plot_weight_histograms(rows) if rows else None


def draw_paper_sheet(out: Path, found: Mapping[str, Any], count: int) -> dict[str, list[str]]:
    """Figure 6: {label: pictures} of evenly spaced test pictures, the true skeletons first."""
    shown: dict[str, list[str]] = {}
    for row in found["presets"]["figure6"]:
        paths = sorted(out.glob(f"seed-*/{row['stage']}/predictions.npz"))
        if not row["ours"] or not paths:
            continue
        family = row["stage"].split("/")[0]
        name = "rhd-evaluation" if family.startswith("r") else f"{family}-test"
        true, predicted = draw_skeletons(Packed(out / "data" / name), paths[0], count)
        shown[f"{family}, true"] = true
        label = row["label"].removeprefix(f"{family}, ")  # Table 3's rows name their dataset
        shown[f"{family}, {label}"] = predicted
    return shown


def draw_skeletons(packed: Packed, predictions: Path, count: int) -> tuple[list[str], list[str]]:
    """`count` pictures with the true skeletons, and with the predicted ones."""
    true, predicted = [], []
    arrays = read_saved_predictions(predictions, len(packed))
    for picture in sample_pictures(packed, count):
        joints = predicted_joints_mm(arrays, picture)
        true_picture = skeleton_picture(picture.rgb, picture.K, picture.joints_mm)
        true.append(jpeg_uri(true_picture))
        predicted.append(jpeg_uri(skeleton_picture(picture.rgb, picture.K, joints)))
    return true, predicted
