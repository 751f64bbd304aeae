"""Charts with a row for each group: its name above its figures, so that long names fit on a phone."""

from typing import TYPE_CHECKING

import pandas as pd

from tlmtl.compare import printed
from tlmtl.report import style
from tlmtl.report.style import Chart
from tlmtl.report.view import LABELS, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 20  # rows of a chart
PITCH = 0.37  # inches from row to row
NAME = 44  # letters of a group's name


def results(panel: Panel) -> Chart:
    """Each run as a dot, each group's mean with its standard deviation."""
    shown, split = panel.first(MOST), panel.split
    if panel.by_labels:
        shown = shown.sort_values(LABELS, kind="stable")
    with style.styled():
        figure, axes = style.blank(0.62 + PITCH * len(shown))
        texts = [text.strip() for text in printed.spread(shown[split], shown[f"{split}_sd"], shown["metric"])]
        tips = {}
        for y, (text, (_, group)) in enumerate(zip(texts, shown.iterrows(), strict=True)):
            look = style.look(group["series"])
            runs = panel.rows.loc[panel.rows["group_id"] == group["group_id"], split].dropna()
            axes.plot(runs, [y] * len(runs), "o", color=look["color"], markersize=4.2, alpha=0.4, markeredgewidth=0)
            axes.errorbar(group[split], y, xerr=_or_zero(group[f"{split}_sd"]), color=look["color"], marker=look["marker"],
                markersize=7, markeredgecolor=style.PAPER, markeredgewidth=0.9, elinewidth=1.6, capsize=0,
                gid=f"mean{y}")  # fmt: skip
            tips[f"mean{y}"] = f"{group['label']}: {text}, n = {group['n']:.0f}"
            name = style.short(str(group["label"]), NAME - 6 * bool(group["best"]))
            _row(axes, y, f"{name} ★" if group["best"] else name, text, bold=bool(group["best"]))
        _finish(axes, len(shown), f"{_split(split)} {panel.metric}{_arrow(panel)}")
        low, high = axes.get_xlim()
        axes.set_xlim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    listed = "; ".join(f"{label} {text}" for label, text in zip(shown["label"], texts, strict=True))
    return Chart(
        f"results_{panel.name}",
        panel.titled(f"{_split(split)} {panel.metric}"),
        figure,
        f"{_split(split)} {panel.metric}: {listed}"[:600],
        panel.left_out(MOST),
        tips,
    )


def gains(panels: list[Panel]) -> Chart | None:
    """What sharing gained or lost on each task, in percent of the measured single-task figure, with 95 % t-intervals."""
    found = [panel.groups[panel.groups["delta"].notna()].assign(panel=panel.title or panel.task)
             for panel in panels if "delta" in panel.groups and panel.groups["delta"].notna().any()]  # fmt: skip
    if not found:
        return None
    groups = pd.concat(found)
    order = list(dict.fromkeys(groups["label"]))
    kept = groups[groups["label"].isin(order[:MOST])]
    heights, places, at = [], [], 0.0
    for label in order[:MOST]:
        heights.append((at, label))
        for _, group in kept[kept["label"] == label].iterrows():
            at += 0.62
            places.append((at, group))
        at += 0.85
    with style.styled():
        figure, axes = style.blank(0.62 + 0.31 * at)
        axes.axvline(0, color=style.MUTED, linewidth=1)
        for y, group in places:
            look, half = style.look(group["series"]), _or_zero(group["delta_half"])
            axes.errorbar(group["delta"], y, xerr=half, color=look["color"], marker=look["marker"], markersize=6,
                markeredgecolor=style.PAPER, markeredgewidth=0.8, elinewidth=1.5)  # fmt: skip
            lost = f" {printed.LOST}" if group["delta"] + half < 0 and half else ""
            tail = f" ± {half:.1f}" if half else ""
            _beside(axes, y, style.short(str(group["panel"]), 16), f"{group['delta']:+.1f}{tail}{lost}")
        for y, label in heights:
            mean = kept.loc[kept["label"] == label, "delta_m"].dropna()
            _beside(axes, y, style.short(label, NAME), f"Δm {mean.iloc[0]:+.1f}" if len(mean) else "", bold=True)
        _finish(axes, at, "change to the single-task run, % (right is better)")
        axes.set_ylim(at - 0.3, -0.6)
        axes.margins(x=0.08)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0) - 0.35 * (high - low), max(high, 0) + 0.3 * (high - low))
    listed = "; ".join(f"{group['label']}, {group['panel']} {group['delta']:+.1f} %" for _, group in places)
    more = f"{MOST} of {len(order)} set-ups are drawn." if len(order) > MOST else ""
    return Chart("gains", "What sharing gained and lost", figure, f"Change per task: {listed}"[:600], more)


def _row(axes: "Axes", y: float, name: str, value: str, bold: bool = False) -> None:
    across, weight = axes.get_yaxis_transform(), "bold" if bold else "normal"
    axes.text(0, y - 0.24, style.plain(name), transform=across, fontsize=8.8, fontweight=weight, va="bottom")
    axes.text(1, y - 0.24, value, transform=across, fontsize=8.8, fontweight=weight, va="bottom", ha="right")


def _beside(axes: "Axes", y: float, name: str, value: str, bold: bool = False) -> None:
    across, weight = axes.get_yaxis_transform(), "bold" if bold else "normal"
    colour = style.INK if bold else style.MUTED
    axes.text(0, y, style.plain(name), transform=across, fontsize=8.8, fontweight=weight, va="center", color=colour)
    axes.text(1, y, value, transform=across, fontsize=8.8, fontweight=weight, va="center", ha="right")


def _finish(axes: "Axes", rows: float, label: str) -> None:
    axes.set_ylim(rows - 0.55, -0.85)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel(label)
    axes.locator_params(axis="x", nbins=6)


def _split(split: str) -> str:
    return "validation" if split == "val" else split


def _arrow(panel: Panel) -> str:
    return "" if panel.sign > 0 else " (lower is better)"


def _or_zero(value: float) -> float:
    return 0.0 if pd.isna(value) else float(value)
