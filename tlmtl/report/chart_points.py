"""Charts of points: a metric against what it cost, and what a regression said against what was true."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tlmtl.compare import printed, stats
from tlmtl.report import style
from tlmtl.report.style import Chart
from tlmtl.report.view import Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 10  # points with a name
DOTS = 500  # of a scatter
LETTER, LINE = 4.9, 10.5  # points of a page: about the size of a letter
Point = tuple[float, float]
Box = tuple[float, float, float, float]


def cost(panel: Panel, name: str = "train_seconds") -> Chart | None:
    """The metric on validation, by which things are chosen, against a cost, with the front of those that no other beats in
    both. None where no cost was measured."""
    groups, split = panel.groups, "val" if panel.groups["val"].notna().any() else "test"
    if name not in groups or (groups[name].notna() & groups[split].notna()).sum() < 2:
        return None
    groups = groups[groups[name].notna() & groups[split].notna()]
    which = "validation" if split == "val" else "test"
    front = stats.pareto(groups[split] * panel.sign, groups[name])
    ahead = groups[front].sort_values(name)
    with style.styled():
        figure, axes = style.blank(3.1)
        few = len(groups) <= NAMED
        named = groups if few else ahead.head(NAMED)
        rest = groups.drop(named.index)
        axes.plot(rest[name], rest[split], "o", color=style.MUTED, markersize=3, alpha=0.5, markeredgewidth=0)
        if len(ahead) > 1:
            axes.plot(ahead[name], ahead[split], color=style.MUTED, linewidth=1.1, linestyle=(0, (3, 2)),
                drawstyle="steps-post")  # fmt: skip
        for _, group in named.iterrows():
            look = style.look(group["series"])
            on = group["group_id"] in set(ahead["group_id"])
            axes.errorbar(group[name], group[split], yerr=0 if pd.isna(group[f"{split}_sd"]) else group[f"{split}_sd"],
                color=look["color"], elinewidth=1, marker=look["marker"], markersize=8 if on else 6, markeredgewidth=1.3,
                markerfacecolor=look["color"] if on else style.PAPER)  # fmt: skip
        if (low := groups[name].min()) > 0 and groups[name].max() / low > 8:
            axes.set_xscale("log")
        axes.margins(x=0.12, y=0.12)
        axes.grid(axis="both")
        axes.set_xlabel(name.replace("_", " ") + " (left is cheaper)")
        axes.set_ylabel(f"{which} {panel.metric}")
        if axes.get_xscale() == "log":
            axes.xaxis.set_major_formatter(style.log_tick)
            axes.xaxis.set_minor_formatter(style.log_tick)
        labels = [style.short(str(label), 24) for label in named["label"]]
        bars = named[[name, split, f"{split}_sd"]].fillna(0).to_numpy()
        steps = list(zip(ahead[name], ahead[split], strict=True))
        lines = [((x, y - sd), (x, y + sd)) for x, y, sd in bars]
        lines += [(one, (other[0], one[1])) for one, other in pairwise(steps)]
        _name(axes, list(zip(labels, named[name], named[split], strict=True)), lines)
    said = ", ".join(f"{g['label']} ({printed.cost(g[name])}, {g[split]:.4g})" for _, g in ahead.iterrows())
    more = "" if few else f" Points of the front are named (at most {NAMED}), the other {len(rest):,} are small dots."
    return Chart(
        f"cost_{panel.name}",
        panel.titled(f"{which} {panel.metric} against cost"),
        figure,
        f"{panel.metric} against {name}; on the front: {said}"[:600],
        more.strip(),
    )


def scatter(name: str, title: str, target: np.ndarray, said: np.ndarray) -> Chart:
    """What a regression said against what was true, both (n,)."""
    kept = np.linspace(0, len(target) - 1, min(len(target), DOTS)).round().astype(int)
    order = np.argsort(target, kind="stable")[kept]
    low, high = float(min(target.min(), said.min())), float(max(target.max(), said.max()))
    with style.styled():
        figure, axes = style.blank(3.6)
        axes.plot([low, high], [low, high], color=style.MUTED, linewidth=1)
        axes.plot(target[order], said[order], "o", color=style.SERIES[0], markersize=3.6, alpha=0.4, markeredgewidth=0)
        axes.grid()
        axes.set_xlabel("true value")
        axes.set_ylabel("what the model said")
    error = np.abs(said - target)
    more = f" {DOTS} of {len(target):,} examples are drawn." if len(target) > DOTS else ""
    return Chart(
        name,
        title,
        figure,
        f"What the model said against the true value; mean absolute error {error.mean():.4g}",
        f"On the line the model is right. Mean absolute error {error.mean():.4g}.{more}",
    )


def _name(axes: "Axes", points: list[tuple[str, float, float]], lines: list[tuple[Point, Point]]) -> None:
    """Names beside points, each where it hides the least of points, `lines` and other names."""
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # for the size of the axes
    scale = 72 / axes.figure.dpi  # pixels to points
    frame = axes.get_window_extent()
    inside = (frame.x0 * scale, frame.y0 * scale, frame.x1 * scale, frame.y1 * scale)
    at = [tuple(axes.transData.transform((x, y)) * scale) for _, x, y in points]
    taken: list[Box] = [(x - 5, y - 5, x + 5, y + 5) for x, y in at]
    for ends in lines:
        (x0, y0), (x1, y1) = axes.transData.transform(ends) * scale
        taken.append((min(x0, x1) - 2, min(y0, y1) - 2, max(x0, x1) + 2, max(y0, y1) + 2))
    for (label, x, y), (px, py) in sorted(zip(points, at, strict=True), key=lambda pair: -pair[1][1]):
        wide = LETTER * len(label)
        options = [
            (8.0, -LINE / 2, "left"), (-8.0, -LINE / 2, "right"), (0.0, 7.0, "center"), (0.0, -7.0 - LINE, "center"),
            (7.0, 5.0, "left"), (7.0, -6.0 - LINE / 2, "left"), (-7.0, 5.0, "right"), (-7.0, -6.0 - LINE / 2, "right"),
        ]  # fmt: skip
        boxes = [(_box(px + dx, py + dy, wide, align), dx, dy, align) for dx, dy, align in options]
        box, dx, dy, align = min(
            boxes, key=lambda one: sum(_over(one[0], other) for other in taken) + _out(one[0], inside)
        )
        taken.append(box)
        axes.annotate(style.plain(label), (x, y), xytext=(dx, dy), textcoords="offset points", ha=align, va="bottom",
            fontsize=8.8)  # fmt: skip


def _box(x: float, y: float, wide: float, align: str) -> Box:
    left = {"left": x, "right": x - wide, "center": x - wide / 2}[align]
    return left, y, left + wide, y + LINE


def _over(one: Box, other: Box) -> float:
    wide, high = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0) * max(high, 0)


def _out(box: Box, frame: Box) -> float:
    """How much of a box lies outside the axes; that weighs more than what it hides."""
    area = (box[2] - box[0]) * (box[3] - box[1])
    return 4 * (area - _over(box, frame))
