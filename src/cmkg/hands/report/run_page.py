"""The report of `cmkg run demo` and `real`.

It consists of results.json and one self-contained report.html.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jaxtyping import Float, Int, Shaped

from ...errors import InputError
from ...runtime.files import write_atomically, write_json, write_text
from ...runtime.progress import format_duration
from ...runtime.run_records import AGAIN
from ...runtime.text import escape_markdown
from ..datasets.packed.format import Packed
from ..skeleton import BONES, FINGER_COLOURS, FINGER_OF_BONE, FINGERS
from .collect import Facts, collect_run, format_spread, format_strength, row_folder
from .plots import (
    clip_uri,
    contact_sheet,
    jpeg_uri,
    plot_joint_errors,
    plot_pck_curves,
    plot_prior_by_layer,
    plot_weight_histograms,
    plot_worth,
    skeleton_picture,
)
from .report_files import read_saved_predictions

SHEET_PICTURES = 8
APART = 20  # chosen pictures are at least this fraction of the set apart: 1 / 20
EACH_KIND = 3  # number of best, usual and worst test pictures
CLIP_FRAMES, CLIP_PX = 30, 180
NEARLY = 0.85  # of the gain from all labels
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
SHOWN = ("tuned-student", "tuned-depth")  # rows drawn on the test pictures


def write(out: Path) -> Facts:
    """Writes results.json, report.html, table.md and hands.png into the folder of a `cmkg run`.

    Returns the contents of results.json.
    """
    out = Path(out)
    results = collect_run(out)
    write_json(out / "results.json", results)
    write_text(out / "table.md", format_tables(results))
    page = load_template("run_page.html").render(
        r=results,
        rows=results["rows"],
        headline=headline(results),
        figures=draw_figures(results),
        fingers=mean_by_finger(results),
        shown=[row_of(results, name)["label"] for name in SHOWN],
        pictures=draw_pictures(out, results),
        clip=draw_clip(out, results),
        as_json=data_uri(json.dumps(results, indent=1), "application/json"),
        as_csv=data_uri(as_csv(results), "text/csv"),
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
    """A page's template from this file's folder."""
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
    """The row with this name.

    Raises:
        InputError: there is none.
    """
    for row in results["rows"]:
        if row["name"] == name:
            found: Facts = row
            return found
    raise InputError(f"this run has no row {name!r}, which its page shows; {AGAIN}")


def headline(results: Mapping[str, Any]) -> str:
    """The gain from depth as a self-contained sentence.

    It gives the part of the gap between few labels and all labels that depth closes.
    """
    source = results["worth"][0]["epe_mm"]
    labels = min(results["settings"]["labels"], results["counts"]["source"])
    every = results["counts"]["source"]
    gained, possible = source["student"] - source["depth"], source["student"] - source["all"]
    if gained <= 0:
        return f"Depth did not help: {labels:,} labels alone were as good"
    if possible <= 0 or gained >= possible:
        return f"Depth made {labels:,} labels as good as {every:,}"
    share = gained / possible
    if share >= NEARLY:
        return f"Depth made {labels:,} labels nearly as good as {every:,}"
    return f"Depth brought {labels:,} labels {100 * share:.0f} % of the way to {every:,}"


def draw_figures(results: Mapping[str, Any]) -> dict[str, str]:
    """The page's charts as SVG."""
    figures = {
        "worth": plot_worth(results["worth"]),
        "pck": plot_pck_curves([row_of(results, name) for name in CURVES]),
        "joints": plot_joint_errors([row_of(results, name) for name in SHOWN]),
    }
    if results["phi"]:
        shown = [row for row in results["rows"] if row["name"] in HISTOGRAMS]
        figures["weights"] = plot_weight_histograms(shown)
        figures["phi"] = plot_prior_by_layer(results["phi"])
    return figures


def mean_by_finger(results: Mapping[str, Any]) -> list[Facts]:
    """[{"finger", "mm": one error for each row of SHOWN}], without the wrist, the origin."""
    rows = [row_of(results, name)["per_joint_mm"] for name in SHOWN]
    return [
        {"finger": name, "mm": [float(np.mean(row[1 + 4 * k : 5 + 4 * k])) for row in rows]}
        for k, name in enumerate(FINGERS)
    ]


def as_csv(results: Mapping[str, Any]) -> str:
    """Every row and seed, for a spreadsheet."""
    written = io.StringIO()
    table = csv.writer(written)
    table.writerow(["part", "row", "seed", "epe_mm", "auc_20_50"])
    for row in results["source"]:
        table.writerow(["source", row["label"], "", row["epe_mm"], row["auc_20_50"]])
    for row in results["rows"]:
        pairs = zip(row["epe_mm"]["values"], row["auc_20_50"]["values"], strict=True)
        for number, (error, auc) in enumerate(pairs):
            table.writerow(["target", row["label"], number, error, auc])
    return written.getvalue()


def data_uri(text: str, kind: str) -> str:
    """Text as a link that downloads it."""
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


# ---- pictures ------------------------------------------------------------------------------------
class TestPicture(NamedTuple):
    """A test picture: its number, the image, its camera and its true joints in mm."""

    number: int
    rgb: Shaped[np.ndarray, "px px 3"]
    K: Float[np.ndarray, "3 3"]
    joints_mm: Float[np.ndarray, "21 3"]


def sample_pictures(packed: Packed, count: int) -> list[TestPicture]:
    """Evenly spaced pictures of a set, not chosen by error."""
    numbers = np.linspace(0, len(packed) - 1, min(count, len(packed))).round().astype(int)
    return [picture_of(packed, int(number)) for number in numbers]


def picture_of(packed: Packed, number: int) -> TestPicture:
    """One picture of a set."""
    return TestPicture(
        number,
        np.array(packed.rgb[number]),
        np.array(packed.K[number], float),
        np.array(packed.joints_mm[number], float),
    )


def load_shown_predictions(out: Path, results: Mapping[str, Any], count: int) -> dict[str, Any]:
    """{row: its first seed's predictions.npz} of the students without and with depth."""
    seed = results["settings"]["seeds"][0]
    return {
        name: read_saved_predictions(row_folder(out, name) / f"seed-{seed}/predictions.npz", count)
        for name in SHOWN
    }


def predicted_joints_mm(arrays: Any, picture: TestPicture) -> Float[np.ndarray, "21 3"]:
    """A prediction in mm, placed at the true wrist."""
    i = picture.number
    return arrays["prediction"][i] * arrays["scale_mm"][i] + picture.joints_mm[0]


def draw_sheet(out: Path, results: Mapping[str, Any]) -> bytes:
    """True and predicted skeletons as PNG.

    Licensed photographs are replaced by white.
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


def chosen_pictures(errors_mm: Float[np.ndarray, "n 21"]) -> dict[str, list[int]]:
    """{"best", "usual", "worst": numbers of test pictures}, by the last row's error on each."""
    order = np.argsort(errors_mm.mean(1), kind="stable")
    middle = len(order) // 2
    around = order[np.argsort(np.abs(np.arange(len(order)) - middle), kind="stable")]
    parts = {"best": order, "usual": around, "worst": order[::-1]}
    return {kind: _apart(numbers, len(order) // APART) for kind, numbers in parts.items()}


def _apart(numbers: Int[np.ndarray, " n"], gap: int) -> list[int]:
    """The first few numbers that are not close to each other, as frames are consecutive."""
    chosen: list[int] = []
    for number in map(int, numbers):
        if len(chosen) < EACH_KIND and all(abs(number - other) > gap for other in chosen):
            chosen.append(number)
    return chosen


def draw_pictures(out: Path, results: Mapping[str, Any]) -> dict[str, list[Facts]]:
    """Best, usual and worst test pictures with skeletons, and the data for the 3D view."""
    packed = Packed(out / "data/target-test")
    loaded = load_shown_predictions(out, results, len(packed))
    chosen = chosen_pictures(loaded[SHOWN[-1]]["errors_mm"])
    return {
        kind: [_draw_picture(picture_of(packed, number), loaded, results) for number in numbers]
        for kind, numbers in chosen.items()
    }


def _draw_picture(
    picture: TestPicture, loaded: Mapping[str, Any], results: Mapping[str, Any]
) -> Facts:
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
    return {
        "number": picture.number,
        "true": jpeg_uri(true),
        "predicted": predicted,
        "true_mm": _about_wrist(picture.joints_mm),
    }


def draw_clip(out: Path, results: Mapping[str, Any]) -> str:
    """Consecutive test pictures, the truth next to the student trained with depth."""
    packed = Packed(out / "data/target-test")
    arrays = load_shown_predictions(out, results, len(packed))[SHOWN[-1]]
    frames = []
    for number in range(min(CLIP_FRAMES, len(packed))):
        picture = picture_of(packed, number)
        hands = (picture.joints_mm, predicted_joints_mm(arrays, picture))
        pair = [skeleton_picture(picture.rgb, picture.K, joints, CLIP_PX) for joints in hands]
        frames.append(np.hstack(pair))
    return clip_uri(frames)


def _about_wrist(joints: Float[np.ndarray, "21 3"]) -> list[list[float]]:
    return (joints - joints[0]).round(1).tolist()
