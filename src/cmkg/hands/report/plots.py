"""Draws numbers as SVG figures and PNG pictures, to embed in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Shaped
from PIL import Image

from ..geometry import project
from ..metrics import FROM_20_MM, THRESHOLDS_MM
from ..skeleton import BONES, FINGER_COLOURS, FINGER_OF_BONE, JOINTS

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cmkg",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")
GREY = "#555555"
LINES = ("-", "--", ":", "-.")

Rows = Sequence[Mapping[str, Any]]
Picture = Shaped[np.ndarray, "_ _ 3"]


class PublishedCurve(NamedTuple):
    """A PCK curve digitized from a paper's figure, with the AUC that it reports."""

    method: str
    auc: float
    thresholds_mm: Sequence[float]
    pck: Sequence[float]


def to_svg(figure: Figure) -> str:
    """The figure as SVG, identical bytes each time."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def plain(label: str) -> str:
    """Escapes a label's dollar signs, so that it is not typeset as mathematics."""
    return label.replace("$", r"\$")


def plot_pck_curves(rows: Rows) -> str:
    """Share of joints within a distance, one line per row; the legend is below the curves.

    The range that AUC 20-50 integrates is shaded.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4.0 + 0.2 * len(rows)))
        axes.axvspan(THRESHOLDS_MM[FROM_20_MM], 50, color="#000000", alpha=0.04, lw=0)
        for number, row in enumerate(rows):
            axes.plot(
                THRESHOLDS_MM,
                row["pck"],
                LINES[number // len(PALETTE) % 3],
                color=PALETTE[number % len(PALETTE)],
                lw=1.8,
                label=f"{plain(row['label'])}, AUC {row['auc_20_50']['mean']:.3f}",
            )
        axes.set(
            xlabel="distance from the true joint, mm",
            ylabel="share of joints within it (PCK)",
            xlim=(0, 50),
            ylim=(0, 1),
        )
        figure.legend(fontsize=8, loc="outside lower left", ncols=1)
        return to_svg(figure)


def plot_joint_errors(rows: Rows) -> str:
    """The mean error of every joint, ordered by finger, one line of dots per row."""
    names = [name.replace(" ", "\n", 1) for name in JOINTS]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.2, 3.6))
        x = np.arange(len(names)) + 0.6 * np.array([0, *np.repeat(range(1, 6), 4)])
        for finger, colour in enumerate(FINGER_COLOURS):
            first, last = x[1 + 4 * finger], x[4 + 4 * finger]
            axes.axvspan(first - 0.5, last + 0.5, color=colour, alpha=0.07, lw=0)
        for number, row in enumerate(rows):
            colour, marker = PALETTE[(1, 2, 0)[number % 3]], "osD"[number % 3]
            label = plain(row["label"])
            axes.plot(x, row["per_joint_mm"], marker, color=colour, ms=4.5, label=label)
            for first in range(1, 21, 4):
                part = slice(first, first + 4)
                axes.plot(x[part], row["per_joint_mm"][part], color=colour, lw=1.2)
        axes.set_xticks(x, names, rotation=90, fontsize=7)
        axes.set(ylabel="error (EPE), mm", ylim=(0, None))
        figure.legend(fontsize=8, loc="outside upper left", ncols=len(rows))
        return to_svg(figure)


WORTH_ROWS = {
    "student": ("labels only", PALETTE[1]),
    "rgb": ("control: taught by RGB", GREY),
    "depth": ("taught by depth", PALETTE[2]),
    "all": ("all labels", PALETTE[0]),
}


def plot_worth(places: Sequence[Mapping[str, Any]]) -> str:
    """Errors without and with depth as bars, one group for each place of collect.worth_of."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.8, 3.6))
        at, ticks = 0.0, []
        for place in places:
            first = at
            for name, (_, colour) in WORTH_ROWS.items():
                if name not in place["epe_mm"]:
                    continue
                value = place["epe_mm"][name]
                axes.barh(at, value, 0.82, color=colour)
                axes.text(value + 0.6, at, f"{value:.1f}", va="center", fontsize=8)
                at += 1
            ticks.append(((first + at - 1) / 2, place["place"].replace(", ", ",\n")))
            at += 0.8
        for label, colour in WORTH_ROWS.values():
            axes.barh([0], [0], color=colour, label=label)
        axes.set_yticks(*zip(*ticks, strict=True))
        axes.invert_yaxis()
        axes.grid(axis="y", alpha=0)
        axes.set(xlabel="error of unseen hands (EPE), mm")
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.45, 1.16), ncols=4)
        return to_svg(figure)


def plot_published_curves(
    ours: Sequence[tuple[str, Mapping[str, Any]]],
    published: Sequence[PublishedCurve],
    gain: tuple[int, int] | None = None,
) -> str:
    """Published PCK curves in gray, ours (label, {"pck", "auc_20_50"}) in color.

    gain: indices of two of our curves; the gain of the second is shaded and its AUC printed.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4.4))
        for number, curve in enumerate(sorted(published, key=lambda curve: -curve.auc)):
            axes.plot(
                curve.thresholds_mm,
                curve.pck,
                LINES[number % len(LINES)],
                color=str(0.35 + 0.06 * number),
                lw=1.2,
                label=f"{curve.method}, {curve.auc:.3f}",
            )
        for number, (label, row) in enumerate(ours):
            axes.plot(
                THRESHOLDS_MM[FROM_20_MM:],
                row["pck"][FROM_20_MM:],
                color=PALETTE[number],
                lw=2.2,
                label=f"{plain(label)}, {row['auc_20_50']['mean']:.3f}",
            )
        if gain is not None:
            below, above = (ours[number][1] for number in gain)
            curves = [row["pck"][FROM_20_MM:] for row in (below, above)]
            x = THRESHOLDS_MM[FROM_20_MM:]
            axes.fill_between(x, *curves, color=PALETTE[gain[1]], alpha=0.2, lw=0)
            delta = above["auc_20_50"]["mean"] - below["auc_20_50"]["mean"]
            axes.annotate(
                f"ΔAUC {delta:+.3f}".replace("-", "−"),
                (x[0] + 0.4, (curves[0][0] + curves[1][0]) / 2),
                va="center",
                fontsize=9,
                bbox={"color": "white", "alpha": 0.7, "pad": 1},
            )
        axes.set(
            xlabel="error threshold, mm",
            ylabel="share of joints (PCK)",
            xlim=(20, 50),
            ylim=(None, 1),
        )
        axes.legend(fontsize=8, loc="lower right", title="AUC 20–50")
        return to_svg(figure)


def plot_weight_histograms(rows: Rows) -> str:
    """Fig. 5: weights of the trained target student on a logarithmic scale."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.4))
        for number, row in enumerate(rows):
            axes.stairs(
                row["weights"]["counts"],
                np.array(row["weights"]["edges"]),
                color=PALETTE[number % len(PALETTE)],
                lw=1.5,
                label=plain(row["label"]),
            )
        axes.set(xlabel="weight", ylabel="count", yscale="log")
        axes.legend(fontsize=8)
        return to_svg(figure)


def plot_prior_by_layer(phi: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The size and spread of phi in each layer, for {title: Prior.quantiles()}.

    Layers differ by orders of magnitude: sizes are logarithmic, and the spread (10 to 90 %, and the
    median) is in units of the layer's own size.
    """
    with plt.rc_context(STYLE):
        shape = (2 * len(phi), 1)
        size = (6.4, 3.8 * len(phi))
        figure, panels = plt.subplots(*shape, figsize=size, sharex=True, squeeze=False)
        for number, (title, layers) in enumerate(phi.items()):
            above, below = panels[2 * number : 2 * number + 2, 0]
            x = np.arange(len(layers))
            low, median, high = (
                np.array([layer[level] for layer in layers.values()])
                for level in ("q10", "median", "q90")
            )
            scale = np.maximum(np.maximum(np.abs(low), np.abs(high)), 1e-30)
            above.bar(x, scale, 0.8, color=PALETTE[0])
            above.set(title=f"prior, {plain(title)}", ylabel="size of φ", yscale="log")
            span = {"color": PALETTE[0], "alpha": 0.35, "width": 0.8}
            below.bar(x, (high - low) / scale, bottom=low / scale, **span)
            below.plot(x, median / scale, "_", color=GREY, ms=7)
            below.axhline(0, color=GREY, lw=0.8)
            below.set(ylabel="spread, of its size", ylim=(-1.1, 1.1))
        panels[-1, 0].set(xlabel="layer, from the input to the output")
        return to_svg(figure)


def plot_reliability(confidence: Sequence[float], share: Sequence[float]) -> str:
    """Share of correct joints over the student's confidence, as SVG; the diagonal is ideal."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(4.2, 3.8))
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.9, ls="--")
        axes.plot(confidence, share, "o-", color=PALETTE[0], ms=5, lw=1.6)
        axes.set(
            xlabel="confidence",
            ylabel="share within a tenth of the box's side",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        return to_svg(figure)


# ---- pictures ------------------------------------------------------------------------------------
def skeleton_picture(
    rgb: Picture,
    K: Float[np.ndarray, "3 3"],
    joints_mm: Float[np.ndarray, "21 3"],
    size: int = 240,
) -> Picture:
    """The picture scaled to the height `size`, with the skeleton drawn on it, as RGB."""
    scale = size / rgb.shape[0]
    width = round(size * rgb.shape[1] / rgb.shape[0])
    picture = cv2.resize(rgb, (width, size), interpolation=cv2.INTER_CUBIC)
    uv = np.clip((project(joints_mm, K) + 0.5) * scale, -2 * size, 3 * size)
    for (parent, child), finger in zip(BONES, FINGER_OF_BONE, strict=True):
        colour = tuple(int(FINGER_COLOURS[finger][i : i + 2], 16) for i in (1, 3, 5))
        a, b = ([round(float(v) * 16) for v in uv[joint]] for joint in (parent, child))
        cv2.line(picture, a, b, (255, 255, 255), 4, cv2.LINE_AA, shift=4)
        cv2.line(picture, a, b, colour, 2, cv2.LINE_AA, shift=4)
    return picture


def depth_picture(
    depth_mm: Shaped[np.ndarray, "h w"],
    wrist_mm: float,
    reach_mm: float = 150.0,
    size: int = 240,
) -> Picture:
    """Depth around the wrist as gray RGB, near is bright; missing depth is dark blue."""
    value = np.clip(0.5 - (depth_mm.astype(float) - wrist_mm) / (2 * reach_mm), 0, 1)
    picture = np.repeat((60 + 195 * value)[..., None], 3, 2).astype(np.uint8)
    picture[depth_mm == 0] = (20, 20, 60)
    width = round(size * depth_mm.shape[1] / depth_mm.shape[0])
    return cv2.resize(picture, (width, size), interpolation=cv2.INTER_NEAREST)


def jpeg_uri(rgb: Picture, quality: int = 85) -> str:
    """The picture as a data: URI."""
    data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def clip_uri(frames: Sequence[Picture], hz: float = 12.0) -> str:
    """Frames as an animated WebP data: URI, to embed in a page."""
    first, *rest = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    pause = round(1000 / hz)
    first.save(
        buffer, "WEBP", save_all=True, append_images=rest, duration=pause, loop=0, quality=70
    )
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def contact_sheet(
    columns: Sequence[Sequence[Picture]],
    labels: Sequence[str],
    titles: Sequence[str] = (),
    size: int = 150,
    tile: int = 240,
) -> bytes:
    """A grid of pictures, one row per label, as PNG.

    Args:
        columns: lists of RGB pictures, one per label.
        labels: of the rows.
        titles: of the columns.
        size: dots per inch.
        tile: width and height of a picture in pixels.
    """
    with plt.rc_context(STYLE | {"axes.grid": False}):
        rows, count = len(labels), len(columns)
        inch = tile / size
        figsize = (1.05 * inch * count + 1.1, 1.1 * inch * rows + 0.3)
        figure, axes = plt.subplots(
            rows, count, figsize=figsize, dpi=size, squeeze=False, layout="constrained"
        )
        for i, column in enumerate(columns):
            for j, picture in enumerate(column):
                axes[j, i].imshow(picture)
                axes[j, i].set(xticks=[], yticks=[])
                axes[j, i].spines[:].set_visible(False)
        for j, label in enumerate(labels):
            axes[j, 0].set_ylabel(plain(label), fontsize=9)
        for i, title in enumerate(titles):
            axes[0, i].set_title(title, fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        plt.close(figure)
    return buffer.getvalue()
