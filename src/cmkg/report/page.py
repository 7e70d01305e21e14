"""The report: results.json and one report.html that needs nothing else and asks nobody."""

import json
import textwrap
from pathlib import Path

import jinja2
import numpy as np

from .. import engine
from ..hands.datasets.packed import Packed
from ..hands.skeleton import BONES, FINGER_COLOURS, FINGER_OF_BONE
from . import plots
from .collect import collect, row_folder

PICTURES = 12


def write(out):
    """Writes results.json, report.html, table.md and hands.png into the folder of a `cmkg run`;
    returns the results."""
    out = Path(out)
    results = collect(out)
    engine.write_json(out / "results.json", results)
    engine.write_atomically(
        out / "table.md", lambda p: p.write_text(markdown(results), encoding="utf-8")
    )
    page = template("page.html").render(
        r=results,
        rows=results["rows"],
        best=by_name(results, results["best"]),
        figures=figures(results),
        pictures=pictures(out, results),
        bones=json.dumps(BONES),
        duration=engine.duration,
        bone_colours=json.dumps([FINGER_COLOURS[f] for f in FINGER_OF_BONE]),
    )
    engine.write_atomically(out / "report.html", lambda p: p.write_text(page, encoding="utf-8"))
    sheet = hands_sheet(out, results)
    engine.write_atomically(out / "hands.png", lambda p: p.write_bytes(sheet))
    return results


def markdown(results):
    """Both tables as Markdown, for a README."""

    def spread(s, digits):
        return f"{s['mean']:.{digits}f}" + (
            f" ± {s['sd']:.{digits}f}" if s["sd"] is not None else ""
        )

    lines = ["| target row | EPE, mm | AUC 20–50 | σ |", "| :-- | --: | --: | --: |"]
    for row in results["rows"]:
        label = f"**{row['label']}**" if row["name"] == results["best"] else row["label"]
        sigma = strength(row)
        lines.append(
            f"| {label} | {spread(row['epe_mm'], 2)} | {spread(row['auc_20_50'], 3)} | {sigma} |"
        )
    lines += ["", "| source | EPE, mm | AUC 20–50 |", "| :-- | --: | --: |"]
    lines += [
        f"| {s['label']} | {s['epe_mm']:.2f} | {s['auc_20_50']:.3f} |" for s in results["source"]
    ]
    return "\n".join(lines) + "\n"


def strength(row):
    """The chosen sigma; a star when it is the smallest or largest that was tried."""
    return (
        f"{row['tried']['chosen']:g}{'*' if row['tried']['at_the_edge'] else ''}"
        if row["tried"]
        else ""
    )


def hands_sheet(out, results, count=8):
    """True and predicted skeletons, evenly over the test set. Licensed photographs stay out of
    it: white instead."""
    packed, seed = Packed(out / "data/target-test"), results["settings"]["seeds"][0]
    names = list(dict.fromkeys(["none", results["best"]]))
    loaded = [np.load(row_folder(out, n) / f"seed-{seed}/predictions.npz") for n in names]
    columns = []
    for i in np.linspace(0, len(packed) - 1, min(count, len(packed))).round().astype(int):
        rgb, K, true = (
            np.array(packed.rgb[i]),
            np.array(packed.K[i], float),
            np.array(packed.joints_mm[i], float),
        )
        rgb = np.full_like(rgb, 255) if results["settings"]["target"] == "real hands" else rgb
        joints = [true] + [a["prediction"][i] * a["scale_mm"][i] + true[0] for a in loaded]
        columns.append([plots.skeleton_picture(rgb, K, j) for j in joints])
    return plots.contact_sheet(
        columns, ["true", *(textwrap.fill(by_name(results, n)["label"], 14) for n in names)]
    )


def template(name):
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["strength"] = strength
    environment.filters["sd"] = lambda value: "" if value is None else f" ± {value:.2f}"
    environment.filters["sd3"] = lambda value: "" if value is None else f" ± {value:.3f}"
    return environment.get_template(name)


def by_name(results, name):
    return next(r for r in results["rows"] if r["name"] == name)


def figures(results):
    curves = [
        "mean-pose",
        "untouched-distilled",
        "none",
        "l2",
        "prior-p2",
        "fine-tune-distilled",
        "recipe",
        "prior-centred",
    ]
    if results["best"] not in curves:
        curves.append(results["best"])
    return {
        "pck": plots.pck_curves([by_name(results, n) for n in curves]),
        "weights": plots.weight_histograms(
            [by_name(results, n) for n in ("none", "l2", "prior-p1", "prior-p2")]
        ),
        "phi": plots.prior_by_layer(results["phi"]),
    }


def pictures(out, results):
    """Test images, evenly over the set (not chosen by error): true and predicted skeletons, in
    2D and for the 3D view."""
    packed = Packed(out / "data/target-test")
    seed = results["settings"]["seeds"][0]
    names = [n for n in ("none", results["best"]) if n]
    loaded = {
        n: np.load(row_folder(out, n) / f"seed-{seed}/predictions.npz")
        for n in dict.fromkeys(names)
    }
    shown = []
    for i in np.linspace(0, len(packed) - 1, min(PICTURES, len(packed))).round().astype(int):
        true, K, rgb = (
            np.array(packed.joints_mm[i], float),
            np.array(packed.K[i], float),
            np.array(packed.rgb[i]),
        )
        item = {
            "number": int(i),
            "true": plots.jpeg_uri(plots.skeleton_picture(rgb, K, true)),
            "predicted": [],
            "true_mm": relative(true),
        }
        for name, arrays in loaded.items():
            joints = arrays["prediction"][i] * arrays["scale_mm"][i] + true[0]
            picture = plots.jpeg_uri(plots.skeleton_picture(rgb, K, joints))
            item["predicted"].append(
                {
                    "label": by_name(results, name)["label"],
                    "error_mm": float(arrays["errors_mm"][i].mean()),
                    "picture": picture,
                    "mm": relative(joints),
                }
            )
        shown.append(item)
    return shown


def relative(joints):
    return (joints - joints[0]).round(1).tolist()
