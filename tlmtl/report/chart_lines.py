"""Charts of lines: a figure as training went, and against labels per class."""

from typing import TYPE_CHECKING, Any

from tlmtl.compare import printed
from tlmtl.report import style
from tlmtl.report.curves import Curve
from tlmtl.report.style import Chart
from tlmtl.report.view import LABELS, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HEIGHT = 3.0
SHORT = 20  # letters of names that stand at the ends of their lines; longer ones stand below
Ends = list[tuple[str, dict[str, Any], float, float]]  # name, look, where its line ends


def learning(panel: Panel, curves: list[Curve], name: str) -> Chart:
    """`name` on validation as training went: means over seeds, bands of one standard deviation."""
    looks = _looks(panel, curves)
    lasts = [curve.points["step"].iloc[-1] for curve in curves]
    as_share = max(lasts) > 2 * min(lasts)  # else short runs are a smear at the left
    with style.styled():
        figure, axes = style.blank(_height([curve.label for curve in curves]))
        ends: Ends = []
        for curve, look in zip(curves, looks, strict=True):
            points = curve.points
            x = points["step"] / (points["step"].iloc[-1] / 100 if as_share else 1)
            low, high = points["mean"] - points["sd"].fillna(0), points["mean"] + points["sd"].fillna(0)
            if points["sd"].notna().any():
                axes.fill_between(x, low, high, color=look["color"], alpha=0.13, linewidth=0)
            single = {"marker": look["marker"], "markersize": 4} if len(points) == 1 else {}
            axes.plot(
                x,
                points["mean"],
                color=look["color"],
                linestyle=look["linestyle"],
                linewidth=1.5,
                **single,
            )
            ends.append((curve.label, look, x.iloc[-1], points["mean"].iloc[-1]))
        if name == "loss" and all((curve.points["mean"] > 0).all() for curve in curves):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(style.log_tick)
            axes.yaxis.set_minor_formatter(style.log_tick)
        _finish(axes, ends, "% of the run's steps" if as_share else "step", f"validation {name}")
    said = "; ".join(f"{label} ends at {y:.4g}" for label, _, _, y in ends)
    unread = sum(curve.unread for curve in curves)
    caption = f"{unread} runs have no readable history.csv. " if unread else ""
    return Chart(
        f"learning_{panel.name}_{'loss' if name == 'loss' else 'metric'}",
        panel.titled(f"validation {name}"),
        figure,
        f"Validation {name} against steps: {said}"[:600],
        f"{caption}{panel.left_out()}".strip(),
    )


def against_labels(panel: Panel) -> Chart | None:
    """The metric against labels per class, a line for each set-up; None where these do not vary."""
    groups = panel.groups
    if not panel.by_labels:
        return None
    split, counts = panel.split, sorted(groups[LABELS].dropna().unique())
    everything = 3 * max(counts, default=1)  # where all labels stand
    lines = list(groups.groupby("series", sort=False))
    with style.styled():
        figure, axes = style.blank(_height([str(line["series_label"].iloc[0]) for _, line in lines[:DRAWN]]))
        ends: Ends = []
        for order, (number, line) in enumerate(lines[:DRAWN]):
            look = style.look(int(str(number)))
            aside = 1 + 0.05 * (order / max(len(lines[:DRAWN]) - 1, 1) - 0.5)  # so that whiskers do not hide each other
            line = line.assign(x=line[LABELS].fillna(everything) * aside).sort_values("x")
            axes.errorbar(line["x"], line[split], yerr=line[f"{split}_sd"].fillna(0), elinewidth=1.1, markersize=5.5,
                linewidth=1.5, markeredgecolor=style.PAPER, markeredgewidth=0.7, **look)  # fmt: skip
            ends.append((str(line["series_label"].iloc[0]), look, line["x"].iloc[-1], line[split].iloc[-1]))
        axes.set_xscale("log")
        ticks = [*counts, *([everything] if groups[LABELS].isna().any() else [])]
        axes.set_xticks(ticks, [*map(printed.number, counts), "all"][: len(ticks)])
        axes.set_xticks([], minor=True)
        _finish(axes, ends, "labels per class", f"{'validation' if split == 'val' else split} {panel.metric}")
    more = f" The first {DRAWN} of {len(lines)} lines are drawn." if len(lines) > DRAWN else ""
    said = "; ".join(f"{label} {y:.4g} with the most labels" for label, _, _, y in ends)
    return Chart(
        f"labels_{panel.name}",
        panel.titled(f"{panel.metric} against labels"),
        figure,
        f"{panel.metric} against labels per class: {said}"[:600],
        more.strip(),
    )


DRAWN = 12  # lines


def _looks(panel: Panel, curves: list[Curve]) -> list[dict[str, Any]]:
    """How each curve is drawn: its set-up's colour, and dashes by the labels per class where those vary."""
    groups = panel.groups.drop_duplicates("label").set_index("label")
    counts = sorted(groups[LABELS].dropna().unique(), reverse=True) if panel.by_labels else []
    looks = []
    for curve in curves:
        group: Any = groups.loc[curve.label]
        look = style.look(int(group["series"]))
        if group.get(LABELS) in counts:
            look["linestyle"] = style.DASHES[counts.index(group[LABELS]) % len(style.DASHES)]
        looks.append(look)
    return looks


def _height(labels: list[str]) -> float:
    return HEIGHT + (0.17 * len(labels) if max(map(len, labels), default=0) > SHORT else 0)


def _finish(axes: "Axes", ends: Ends, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y")
    axes.locator_params(axis="x", nbins=6) if axes.get_xscale() == "linear" else None
    if max((len(label) for label, *_ in ends), default=0) > SHORT:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], linewidth=1.5, markersize=5, **look) for _, look, _, _ in ends]
        names = [style.plain(style.short(label, 56)) for label, *_ in ends]
        axes.legend(handles, names, loc="upper left", bbox_to_anchor=(-0.12, -0.19), borderpad=0, labelspacing=0.25)
    else:
        _label_ends(axes, ends)


def _label_ends(axes: "Axes", ends: Ends) -> None:
    """Names at the ends of lines, moved apart where they would overlap."""
    gap = 0.068
    into = axes.transScale.transform  # as a share of the axis, whatever its scale
    (_, low), (_, high) = into([(1, axes.get_ylim()[0]), (1, axes.get_ylim()[1])])
    wanted = [((float(into([(1, y)])[0][1]) - low) / (high - low), label, look, x, y) for label, look, x, y in ends]
    wanted.sort(key=lambda end: end[0])
    places = [min(max(place, 0.02), 0.98) for place, *_ in wanted]
    for i in range(1, len(places)):
        places[i] = max(places[i], places[i - 1] + gap)
    if places and places[-1] > 0.99:
        places[-1] = 0.99
        for i in range(len(places) - 2, -1, -1):
            places[i] = min(places[i], places[i + 1] - gap)
    for place, (_, label, look, x, y) in zip(places, wanted, strict=True):
        axes.annotate(style.plain(label), (x, y), xytext=(1.04, place), textcoords="axes fraction", va="center",
            fontsize=8.8, color=look["color"], annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": look["color"], "linewidth": 0.6, "alpha": 0.6,
                        "shrinkA": 1, "shrinkB": 1})  # fmt: skip
