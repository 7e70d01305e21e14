"""Numbers -> SVG figures and PNG pictures, as strings to be put into a page."""

import base64
import io

import cv2
import matplotlib
import numpy as np

from ..hands.geometry import project
from ..hands.metrics import THRESHOLDS_MM
from ..hands.skeleton import BONES, FINGER_COLOURS, FINGER_OF_BONE

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

STYLE = {
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


def svg(figure):
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def pck_curves(rows):
    """Share of joints within a distance, one line a row; the band that AUC 20-50 measures is
    shaded."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4.0))
        axes.axvspan(THRESHOLDS_MM[8], 50, color="#000000", alpha=0.04, lw=0)
        styles = ("-", "--", ":")
        for i, row in enumerate(rows):
            axes.plot(
                THRESHOLDS_MM,
                row["pck"],
                styles[i // len(PALETTE) % 3],
                color=PALETTE[i % len(PALETTE)],
                lw=1.8,
                label=f"{row['label']}, AUC {row['auc_20_50']['mean']:.3f}",
            )
        axes.set(
            xlabel="error threshold, mm", ylabel="share of joints (PCK)", xlim=(0, 50), ylim=(0, 1)
        )
        axes.legend(fontsize=8, loc="upper left")
        return svg(figure)


def published_curves(ours, published):
    """Published PCK curves [(method, AUC, thresholds, pck)] in greys, ours [(label, {"pck",
    "auc_20_50"})] in colours."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4.4))
        for i, (method, auc, x, y) in enumerate(sorted(published, key=lambda c: -c[1])):
            axes.plot(
                x,
                y,
                ("-", "--", ":", "-.")[i % 4],
                color=str(0.35 + 0.06 * i),
                lw=1.2,
                label=f"{method}, {auc:.3f}",
            )
        for i, (label, row) in enumerate(ours):
            axes.plot(
                THRESHOLDS_MM[8:],
                row["pck"][8:],
                color=PALETTE[i],
                lw=2.2,
                label=f"{label}, {row['auc_20_50']['mean']:.3f}",
            )
        axes.set(
            xlabel="error threshold, mm",
            ylabel="share of joints (PCK)",
            xlim=(20, 50),
            ylim=(None, 1),
        )
        axes.legend(fontsize=8, loc="lower right", title="AUC 20–50")
        return svg(figure)


def weight_histograms(rows):
    """Fig. 5: weights of the trained target student, on a logarithmic scale."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.4))
        for i, row in enumerate(rows):
            edges = np.array(row["weights"]["edges"])
            axes.stairs(
                row["weights"]["counts"],
                edges,
                color=PALETTE[i % len(PALETTE)],
                lw=1.5,
                label=f"{row['label']}",
            )
        axes.set(xlabel="weight", ylabel="count", yscale="log")
        axes.legend(fontsize=8)
        return svg(figure)


def prior_by_layer(phi):
    """Quantiles of phi per layer: line = median, band = 10-90 %."""
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            len(phi), 1, figsize=(6.4, 2.3 * len(phi)), sharex=True, squeeze=False
        )
        for axes, (title, layers) in zip(panels[:, 0], phi.items(), strict=False):
            x = np.arange(len(layers))
            q = {
                k: np.array([layer[k] for layer in layers.values()])
                for k in ("q10", "median", "q90")
            }
            axes.fill_between(x, q["q10"], q["q90"], color=PALETTE[0], alpha=0.25, lw=0, step="mid")
            axes.step(x, q["median"], where="mid", color=PALETTE[0])
            axes.axhline(0, color="#555555", lw=0.8)
            axes.set(title=f"prior, {title}", ylabel="φ")
            axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        axes.set(xlabel="layer, from the input to the output")
        return svg(figure)


def error_chart(studies, references):
    """EPE of every row, a panel a study: a dot each seed, the mean and ± its standard deviation
    over them; a line at the mean of each of `references`.

    studies: what study.collect returns, in the order of the panels; rows that one of them lacks
    stay empty there.
    """
    labels = {}
    for r in (r for found in studies for r in found["rows"]):
        labels.setdefault(r["name"], r["label"])
    height = {name: -i for i, name in enumerate(labels)}
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1,
            len(studies),
            figsize=(4.3 + 3.0 * len(studies), 0.8 + 0.27 * len(labels)),
            sharey=True,
            squeeze=False,
        )
        for axes, found in zip(panels[0], studies, strict=False):
            for r in found["rows"]:
                colour, error, y = PALETTE[_kind(r)], r["epe_mm"], height[r["name"]]
                axes.errorbar(
                    error["mean"], y, xerr=error["sd"], fmt="o", ms=6, lw=2.4, color=colour
                )
                axes.plot(
                    error["values"], [y] * len(error["values"]), "|", ms=8, color=colour, alpha=0.6
                )
                if r["name"] in references:
                    axes.axvline(error["mean"], color=colour, lw=0.9, ls="--", zorder=0)
            axes.set(
                title=found["target"],
                xlabel="EPE, mm",
                yticks=list(height.values()),
                yticklabels=labels.values(),
            )
        return svg(figure)


def _kind(row):
    """Index in PALETTE: grey for a control, blue for a prior, red for no prior from theta_0,
    green for trained weights."""
    if row["label"].startswith("control"):
        return 6
    return (
        0
        if row["label"].startswith("prior")
        else 1
        if row["name"] in ("none", "l2", "fresh-none")
        else 2
    )


def skeleton_picture(rgb, K, joints_mm, size=240, dashed=False):
    """The picture (H, W, 3) enlarged to the height `size`, with the skeleton of joints_mm (21,
    3) over it, as RGB."""
    scale = size / rgb.shape[0]
    picture = cv2.resize(
        rgb, (round(size * rgb.shape[1] / rgb.shape[0]), size), interpolation=cv2.INTER_CUBIC
    )
    uv = (project(joints_mm, K) + 0.5) * scale
    for (a, b), finger in zip(BONES, FINGER_OF_BONE, strict=False):
        colour = tuple(int(FINGER_COLOURS[finger][i : i + 2], 16) for i in (1, 3, 5))
        ends = [
            tuple(int(round(float(v) * 16)) for v in np.clip(uv[j], -2 * size, 3 * size))
            for j in (a, b)
        ]
        cv2.line(picture, *ends, (255, 255, 255), 4, cv2.LINE_AA, shift=4)
        cv2.line(picture, *ends, colour, 2, cv2.LINE_AA, shift=4)
    return picture


def depth_picture(depth_mm, wrist_mm, reach_mm=150.0, size=240):
    """Depth (H, W) mm around the wrist as grey (near is bright) RGB; what was not measured is
    dark blue."""
    value = np.clip(0.5 - (depth_mm.astype(float) - wrist_mm) / (2 * reach_mm), 0, 1)
    picture = np.repeat((60 + 195 * value)[..., None], 3, 2).astype(np.uint8)
    picture[depth_mm == 0] = (20, 20, 60)
    return cv2.resize(
        picture,
        (round(size * depth_mm.shape[1] / depth_mm.shape[0]), size),
        interpolation=cv2.INTER_NEAREST,
    )


def jpeg_uri(rgb, quality=85):
    data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def contact_sheet(columns, labels, size=150):
    """Rows of pictures under each other with a label at the left of each row: PNG bytes.
    columns: lists of RGB pictures."""
    with plt.rc_context(STYLE | {"axes.grid": False}):
        rows, count = len(labels), len(columns)
        figure, axes = plt.subplots(
            rows, count, figsize=(1.35 * count + 1.1, 1.4 * rows), dpi=size, squeeze=False
        )
        for i, column in enumerate(columns):
            for j, picture in enumerate(column):
                axes[j, i].imshow(picture)
                axes[j, i].set(xticks=[], yticks=[])
                axes[j, i].spines[:].set_visible(False)
        for j, label in enumerate(labels):
            axes[j, 0].set_ylabel(label, fontsize=9)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        plt.close(figure)
    return buffer.getvalue()
