"""`--front --plot FILE`: static sums as a front, other weightings as points, one panel for each pair of tasks."""

import math
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from tlmtl.compare import front_table, plot, printed
from tlmtl.compare.front import BEYOND, Front, on_front
from tlmtl.compare.metrics import sign

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANELS = 6
GREY = "#555555"  # static sums


def draw(front: Front, path: Path) -> list[str]:
    """Writes the figure of `front` to `path`; returns notes. Better is up and to the right in every panel.

    Filled points lie beyond the front, hollow ones don't or can't be told.
    """
    plot.check(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = front.points
    names = _names(front)
    panels = [
        (part, first, second)
        for _, part in points.groupby("family", sort=False)
        for first, second in combinations([task for task in front.tasks if part[task].notna().any()], 2)
    ]
    across = min(len(panels[:PANELS]), 3)
    down = math.ceil(len(panels[:PANELS]) / across)
    with pyplot.rc_context(plot.STYLE):
        figure, axes = pyplot.subplots(
            down, across, figsize=(max(6.4, 4.6 * across) + 2.2, 4.2 * down), squeeze=False, layout="constrained"
        )
        styles = {name: at for at, name in enumerate(dict.fromkeys(names[~points["static"]]))}
        for ax, (part, first, second) in zip(axes.flat, panels, strict=False):
            _panel(ax, part, names, {first: front.tasks[first], second: front.tasks[second]}, styles)
            ax.set_title(_title(front, part), fontsize=9)
        for ax in axes.flat[len(panels) :]:
            ax.remove()
        handles = {
            label: handle for ax in figure.axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=9)
        plot.save(figure, path)
    more = [f"The figure shows the first {PANELS} of {len(panels)} pairs of tasks."] if len(panels) > PANELS else []
    return [*more, f"Figure written to {path}; filled points lie beyond the front."]


def _panel(ax: "Axes", part: pd.DataFrame, names: pd.Series, tasks: dict[str, str], styles: dict[str, int]) -> None:
    (first, second), signs = tasks, [sign(metric) for metric in tasks.values()]
    part = part.fillna({f"{first}_sd": 0.0, f"{second}_sd": 0.0})
    static, learned = part[part["static"]], part[~part["static"]]
    best = static[on_front((static[[first, second]] * signs).to_numpy())].sort_values(first)
    ax.plot(best[first], best[second], color=GREY, linewidth=1.4, zorder=2.5)
    ax.errorbar(static[first], static[second], static[f"{second}_sd"], static[f"{first}_sd"], fmt=".", color=GREY,
                label="static sums", markersize=7, ecolor="#BBBBBB", elinewidth=0.8, zorder=2)  # fmt: skip
    for _, point in pd.concat([static.head(1), static.tail(1)]).drop_duplicates("group_id").iterrows():
        ax.annotate(point["weights"], (point[first], point[second]), xytext=(4, 4), textcoords="offset points",
                    fontsize=7.5, color=GREY)  # fmt: skip
    for name, (_, point) in zip(names[learned.index], learned.iterrows(), strict=True):
        style = styles[name]
        colour = plot.COLOURS[style % len(plot.COLOURS)]
        markers = plot.MARKERS[1:]
        ax.errorbar(
            point[first], point[second], point[f"{second}_sd"], point[f"{first}_sd"], label=name, color=colour,
            marker=markers[style % len(markers)], markerfacecolor=colour if point["verdict"] == BEYOND else "white",
            markersize=7, linestyle="none", elinewidth=0.9, capsize=2, zorder=3,
        )  # fmt: skip
    ax.set_xlabel(_axis(first, tasks[first]))
    ax.set_ylabel(_axis(second, tasks[second]))
    if signs[0] < 0:
        ax.invert_xaxis()
    if signs[1] < 0:
        ax.invert_yaxis()
    ax.grid()


def _axis(task: str, metric: str) -> str:
    return f"{task}: test {metric}" + " (lower is better)" * (sign(metric) < 0)


def _names(front: Front) -> pd.Series:
    """A short name for each point: its weighting, and what else the points of one front differ in."""
    points = front.points
    kept = ["weighting"]
    for name in front_table.settings(front):
        if not points[~points["static"]].duplicated([*kept, "family"]).any():
            break
        kept.append(name)
    texts = points[kept].apply(printed.settings)
    return texts.apply(lambda row: " · ".join(filter(None, row)), axis=1).astype("str")


def _title(front: Front, part: pd.DataFrame) -> str:
    """What the panel's front differs in from the others."""
    same = [name for name in front_table.settings(front) if part[name].nunique(dropna=False) == 1]
    return " · ".join(f"{name} {printed.settings(part[name]).iloc[0]}" for name in same)
