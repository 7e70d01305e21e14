"""The studies' chart: the error of every row, one panel per study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmkg.hands.report.plots import PALETTE, STYLE, plt, to_svg

BLUE, RED, GREEN, GREY = (PALETTE[i] for i in (0, 1, 2, 6))
WITHOUT_PRIOR = ("none", "l2")


def draw_errors(studies: Sequence[Mapping[str, Any]], references: Sequence[str]) -> str:
    """EPE of every row as SVG.

    Each seed is a dot, with the mean and standard deviation over seeds; a line marks the mean of
    each of `references`. Rows that a study lacks stay empty in its panel.
    """
    labels: dict[str, str] = {}
    for study in studies:
        for row in study["rows"]:
            labels.setdefault(row["name"], row["label"])
    height = {name: -place for place, name in enumerate(labels)}
    size = (4.3 + 3.0 * len(studies), 0.8 + 0.27 * len(labels))
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(1, len(studies), figsize=size, sharey=True, squeeze=False)
        for axes, study in zip(panels[0], studies, strict=True):
            for row in study["rows"]:
                colour, error, y = colour_of(row), row["epe_mm"], height[row["name"]]
                axes.errorbar(
                    error["mean"], y, xerr=error["sd"], fmt="o", ms=6, lw=2.4, color=colour
                )
                seeds = error["values"]
                axes.plot(seeds, [y] * len(seeds), "|", ms=8, color=colour, alpha=0.6)
                if row["name"] in references:
                    axes.axvline(error["mean"], color=colour, lw=0.9, ls="--", zorder=0)
            axes.set(
                title=study["target"],
                xlabel="EPE, mm",
                yticks=list(height.values()),
                yticklabels=labels.values(),
            )
        return to_svg(figure)


def colour_of(row: Mapping[str, Any]) -> str:
    """Gray for a control, blue for a prior, red for no prior from theta_0, otherwise green."""
    if row["label"].startswith("control"):
        return GREY
    if "φ" in row["label"] or "ℓ² around" in row["label"]:
        return BLUE
    return RED if row["name"] in WITHOUT_PRIOR else GREEN


def draw_labels(found: Mapping[str, Any]) -> str:
    """Error over the number of labels, one line per row, as SVG: mean and standard deviation."""
    lines: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for cell in found["cells"]:
        for row in cell["rows"]:
            lines.setdefault(row["label"], []).append((int(cell["target"]), row["epe_mm"]))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.8))
        for (label, points), colour in zip(lines.items(), (RED, GREEN, GREY), strict=False):
            x = [count for count, _ in points]
            y = [error["mean"] for _, error in points]
            sd = [error["sd"] or 0.0 for _, error in points]
            axes.errorbar(x, y, yerr=sd, fmt="o-", ms=5, lw=1.8, color=colour, label=label)
        counts = sorted({count for points in lines.values() for count, _ in points})
        axes.set_xscale("log")
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set(xlabel="pairs with labels", ylabel="EPE of unseen hands, mm", ylim=(0, None))
        axes.legend(fontsize=9)
        return to_svg(figure)
