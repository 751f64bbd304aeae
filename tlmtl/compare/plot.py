"""`--plot FILE`: a metric against labels per class where those vary, else one bar per row."""

import math
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from tlmtl.compare import choice, names, output, printed
from tlmtl.compare.groups import Summary
from tlmtl.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = [".png", ".svg", ".pdf"]
# Okabe and Ito's colours, told apart with any colour vision; markers and dashes say the same again, for grey print.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
DASHES: list[Any] = ["-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2))]
STYLE: dict[Any, Any] = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#666666",
    "axes.labelcolor": "#222222", "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "xtick.color": "#444444", "ytick.color": "#444444", "grid.color": "#e6e6e6", "axes.axisbelow": True,
    "legend.frameon": False, "svg.hashsalt": "tlmtl", "svg.fonttype": "none", "pdf.fonttype": 42,
}  # fmt: skip
MOST = 40  # bars or lines in one panel


def check(path: Path) -> None:
    """Raises ConfigError for a suffix that isn't one of a figure."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"Expected --plot to name a file ending in {', '.join(SUFFIXES)}; found '{path}'.")


def draw(summary: Summary, path: Path) -> list[str]:
    """Writes the figure of `summary` to `path`; returns notes."""
    check(path)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = summary.groups
    by_labels = "labels_per_class" in summary.varying() and is_numeric_dtype(groups["labels_per_class"])
    varying = [name for name in summary.varying() if name not in ("dataset", "task", "kind")]
    lines = [name for name in varying if name != "labels_per_class"]
    groups = groups.assign(label=names.labels(groups, lines if by_labels else varying))
    panels = list(groups.groupby(choice.TASK, dropna=False, sort=False))
    across = min(len(panels), 3)
    down = math.ceil(len(panels) / across)
    with pyplot.rc_context(STYLE):
        height = 3.9 if by_labels else 1.1 + 0.42 * min(max(len(panel) for _, panel in panels), MOST)
        size = (max(6.4, 4.6 * across), height * down)
        figure, axes = pyplot.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
        styles = {label: at for at, label in enumerate(groups["label"].unique())}
        notes = []
        for ax, ((dataset, task), panel) in zip(axes.flat, panels, strict=False):
            if len(panels) > 1:
                ax.set_title(f"{dataset} · {task}" if groups["dataset"].nunique() > 1 else str(task))
            notes += _lines(ax, panel, styles) if by_labels else _bars(ax, panel, summary.rows)
        if not by_labels and len({tuple(panel["label"]) for _, panel in panels}) == 1:
            for ax in axes[:, 1:].flat:
                ax.tick_params(labelleft=False)
        for ax in axes.flat[len(panels) :]:
            ax.remove()
        save(figure, path)
    return [*dict.fromkeys(notes), f"Figure written to {path}."]


def save(figure: "Figure", path: Path) -> None:
    """Writes `figure` to `path`, whole or not at all and the same bytes each time, and closes it."""
    from matplotlib import pyplot

    content = BytesIO()
    kind = path.suffix.lower().removeprefix(".")
    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    figure.savefig(content, format=kind, dpi=200, metadata=undated)
    pyplot.close(figure)
    output.write(path, content.getvalue())


def _shown(panel: pd.DataFrame) -> tuple[str, str]:
    """Which figure to draw, `test` or `val`, and the title of its axis."""
    split = "test" if panel["test"].notna().any() else "val"
    fewest, most = panel["n"].min(), panel["n"].max()
    repeats = f"\nmean ± sd, n = {fewest}{f' to {most}' * bool(fewest < most)}" if most > 1 else ""
    return split, f"{'test' if split == 'test' else 'validation'} {panel['metric'].iloc[0]}{repeats}"


def _lines(ax: "Axes", panel: pd.DataFrame, styles: dict[str, int]) -> list[str]:
    split, title = _shown(panel)
    counts = sorted(panel["labels_per_class"].dropna().unique())
    everything = 3 * max(counts, default=1)  # where `all labels` stands
    lines = list(panel.groupby("label", sort=False))
    for order, (label, line) in enumerate(lines[:MOST]):
        aside = 1 + 0.05 * (order / max(len(lines[:MOST]) - 1, 1) - 0.5)  # so that whiskers don't hide each other
        line = line.assign(x=line["labels_per_class"].fillna(everything)).sort_values("x")
        at = styles[str(label)]
        ax.errorbar(
            line["x"] * aside, line[split], yerr=line[f"{split}_sd"].fillna(0), label=label, capsize=2.5, elinewidth=1,
            color=COLOURS[at % len(COLOURS)], marker=MARKERS[at % len(MARKERS)], markersize=5.5,
            linestyle=DASHES[at // len(COLOURS) % len(DASHES)], linewidth=1.8,
        )  # fmt: skip
    ticks = [*counts, *([everything] if panel["labels_per_class"].isna().any() else [])]
    ax.set_xscale("log")
    ax.set_xticks(ticks, [*map(printed.number, counts), "all"][: len(ticks)])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("labels per class")
    ax.set_ylabel(title)
    ax.grid(axis="y")
    ax.legend(loc="best", fontsize=9)
    return [f"The figure shows {MOST} lines of {len(lines)}."] if len(lines) > MOST else []


def _bars(ax: "Axes", panel: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    split, title = _shown(panel)
    shown = panel.iloc[:MOST]
    at = range(len(shown))
    ax.barh(at, shown[split], height=0.66, color="#A9CCE5")
    ax.errorbar(
        shown[split], [y - 0.13 for y in at], xerr=shown[f"{split}_sd"],
        fmt="none", color="#222222", capsize=3, elinewidth=1,
    )  # fmt: skip
    by = ["group_id", "dataset", "task"]
    heights = pd.DataFrame({**{name: shown[name] for name in by}, "y": [y + 0.15 for y in at]})
    seeds = rows.merge(heights, on=by)
    ax.plot(seeds[split], seeds["y"], "o", color=COLOURS[0], markersize=4, alpha=0.8, markeredgewidth=0, clip_on=False)
    for y, text in zip(at, printed.spread(shown[split], shown[f"{split}_sd"], shown["metric"]), strict=True):
        ax.annotate(text.strip(), (1.0, y), xycoords=("axes fraction", "data"), xytext=(5, 0), va="center",
            textcoords="offset points", fontsize=8.5, color="#444444")  # fmt: skip
    if seeds[split].between(0.5, 1).any() and seeds[split].between(0, 1).all():
        ax.set_xlim(0, 1)  # fractions, such as accuracies
    ax.set_yticks(at, list(shown["label"]))
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(title)
    ax.grid(axis="x")
    return [f"The figure shows the first {MOST} rows of {len(panel)}."] if len(panel) > MOST else []
