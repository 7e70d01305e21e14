"""The report of `cmkg run demo` and `real`.

results.json and one report.html that needs nothing else and asks nobody.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jaxtyping import Float, Shaped

from ...errors import InputError
from ...runtime.files import write_atomically, write_json, write_text
from ...runtime.progress import format_duration
from ...runtime.run_files import AGAIN
from ...runtime.text import escape_markdown
from ..datasets.packed import Packed
from ..skeleton import BONES, FINGER_COLOURS, FINGER_OF_BONE
from .collect import Facts, collect_run, format_spread, format_strength, row_folder
from .plots import (
    contact_sheet,
    jpeg_uri,
    plot_pck_curves,
    plot_prior_by_layer,
    plot_weight_histograms,
    plot_worth,
    skeleton_picture,
)
from .run_files import read_predictions

PICTURES, SHEET_PICTURES = 12, 8
CURVES = (
    "mean-pose",
    "untouched-student",
    "untouched-rgb",
    "untouched-depth",
    "untouched-all",
    "tuned-student",
    "tuned-depth",
)
HISTOGRAMS = ("none", "l2", "prior")
SHOWN = ("tuned-student", "tuned-depth")  # on the test pictures


def write(out: Path) -> Facts:
    """Writes results.json, report.html, table.md and hands.png into the folder of a `cmkg run`.

    Returns what the first holds.
    """
    out = Path(out)
    results = collect_run(out)
    write_json(out / "results.json", results)
    write_text(out / "table.md", format_tables(results))
    page = load_template("run_page.html").render(
        r=results,
        rows=results["rows"],
        figures=draw_figures(results),
        pictures=draw_pictures(out, results),
        bones=json.dumps(BONES),
        duration=format_duration,
        bone_colours=json.dumps([FINGER_COLOURS[finger] for finger in FINGER_OF_BONE]),
    )
    write_text(out / "report.html", page)
    sheet = draw_sheet(out, results)
    write_atomically(out / "hands.png", lambda partial: partial.write_bytes(sheet))
    return results


def format_tables(results: Mapping[str, Any]) -> str:
    """Both tables as Markdown, for a README."""
    lines = ["| source | EPE, mm | AUC 20–50 |", "| :-- | --: | --: |"]
    for stage in results["source"]:
        label = escape_markdown(stage["label"])
        lines.append(f"| {label} | {stage['epe_mm']:.2f} | {stage['auc_20_50']:.3f} |")
    lines += ["", "| target | EPE, mm | AUC 20–50 | chosen |", "| :-- | --: | --: | --: |"]
    for row in results["rows"]:
        error, auc = format_spread(row["epe_mm"]), format_spread(row["auc_20_50"], 3)
        label = escape_markdown(row["label"])
        lines.append(f"| {label} | {error} | {auc} | {format_strength(row)} |")
    return "\n".join(lines) + "\n"


def load_template(name: str) -> jinja2.Template:
    """A page's template, from beside this file."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["strength"] = format_strength
    environment.filters["spread"] = format_spread
    return environment.get_template(name)


def row_of(results: Mapping[str, Any], name: str) -> Facts:
    """The row of a name.

    Raises:
        InputError: there is none.
    """
    for row in results["rows"]:
        if row["name"] == name:
            found: Facts = row
            return found
    raise InputError(f"this run has no row {name!r}, which its page shows; {AGAIN}")


def draw_figures(results: Mapping[str, Any]) -> dict[str, str]:
    """The page's charts as SVG."""
    figures = {
        "worth": plot_worth(results["worth"]),
        "pck": plot_pck_curves([row_of(results, name) for name in CURVES]),
    }
    if results["phi"]:
        figures["weights"] = plot_weight_histograms([row_of(results, n) for n in HISTOGRAMS])
        figures["phi"] = plot_prior_by_layer(results["phi"])
    return figures


# ---- pictures ------------------------------------------------------------------------------------
class TestPicture(NamedTuple):
    """A picture of the test set: its number, itself, its camera and its true joints in mm."""

    number: int
    rgb: Shaped[np.ndarray, "px px 3"]
    K: Float[np.ndarray, "3 3"]
    joints_mm: Float[np.ndarray, "21 3"]


def sample_pictures(packed: Packed, count: int) -> list[TestPicture]:
    """Pictures evenly over a set, not chosen by error."""
    numbers = np.linspace(0, len(packed) - 1, min(count, len(packed))).round().astype(int)
    return [
        TestPicture(
            int(i),
            np.array(packed.rgb[i]),
            np.array(packed.K[i], float),
            np.array(packed.joints_mm[i], float),
        )
        for i in numbers
    ]


def load_shown_predictions(out: Path, results: Mapping[str, Any], count: int) -> dict[str, Any]:
    """{row: its first seed's predictions.npz} of the students without and with depth."""
    seed = results["settings"]["seeds"][0]
    return {
        name: read_predictions(row_folder(out, name) / f"seed-{seed}/predictions.npz", count)
        for name in SHOWN
    }


def predicted_joints_mm(arrays: Any, picture: TestPicture) -> Float[np.ndarray, "21 3"]:
    """A prediction in mm, about the true wrist."""
    i = picture.number
    return arrays["prediction"][i] * arrays["scale_mm"][i] + picture.joints_mm[0]


def draw_sheet(out: Path, results: Mapping[str, Any]) -> bytes:
    """True and predicted skeletons as PNG.

    Licensed photographs stay out of it: white instead.
    """
    packed = Packed(out / "data/target-test")
    loaded = load_shown_predictions(out, results, len(packed))
    licensed = results["settings"]["target"] != "rendered"
    columns = []
    for picture in sample_pictures(packed, SHEET_PICTURES):
        rgb = np.full_like(picture.rgb, 255) if licensed else picture.rgb
        hands = [picture.joints_mm, *(predicted_joints_mm(a, picture) for a in loaded.values())]
        columns.append([skeleton_picture(rgb, picture.K, joints) for joints in hands])
    labels = [textwrap.fill(row_of(results, name)["label"], 14) for name in loaded]
    return contact_sheet(columns, ["true", *labels])


def draw_pictures(out: Path, results: Mapping[str, Any]) -> list[Facts]:
    """Test images with true and predicted skeletons, in 2D and for the 3D view."""
    packed = Packed(out / "data/target-test")
    loaded = load_shown_predictions(out, results, len(packed))
    shown = []
    for picture in sample_pictures(packed, PICTURES):
        predicted = []
        for name, arrays in loaded.items():
            joints = predicted_joints_mm(arrays, picture)
            predicted.append(
                {
                    "label": row_of(results, name)["label"],
                    "error_mm": float(arrays["errors_mm"][picture.number].mean()),
                    "picture": jpeg_uri(skeleton_picture(picture.rgb, picture.K, joints)),
                    "mm": _about_wrist(joints),
                }
            )
        true = skeleton_picture(picture.rgb, picture.K, picture.joints_mm)
        shown.append(
            {
                "number": picture.number,
                "true": jpeg_uri(true),
                "predicted": predicted,
                "true_mm": _about_wrist(picture.joints_mm),
            }
        )
    return shown


def _about_wrist(joints: Float[np.ndarray, "21 3"]) -> list[list[float]]:
    return (joints - joints[0]).round(1).tolist()
