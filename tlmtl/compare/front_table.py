"""The fronts of `front.py` as a table: in a terminal, as text, and in the formats for other programs."""

from typing import TYPE_CHECKING

import pandas as pd

from tlmtl.compare import formats, layout, plain, printed, table, weights
from tlmtl.compare.front import Front
from tlmtl.compare.layout import Column

if TYPE_CHECKING:
    from rich.console import Console

OWN = ["weighting", "weights"]  # what a point is called by, beside the settings that differ
NOT_SHOWN = ["task", "kind", "tasks", "group_id", *OWN]


def settings(front: Front) -> list[str]:
    """What fronts and points differ in, beside weighting and weights."""
    varying = [name for name in front.summary.varying() if name not in NOT_SHOWN and not weights.is_weight(name)]
    return [name for name in varying if name in front.points and front.points[name].nunique(dropna=False) > 1]


def columns(front: Front) -> list[Column]:
    """Settings, weighting, weights, n, one column for each task, margin, verdict: as text."""
    points = front.points
    shown = [Column(name, name, list(printed.settings(points[name])), "setting") for name in [*settings(front), *OWN]]
    shown.append(Column("n", "n", list(printed.settings(points["n"])), "number"))
    for task, metric in front.tasks.items():
        cells = printed.spread(points[task], points[f"{task}_sd"], pd.Series(metric, index=points.index))
        shown.append(Column(task, f"{task} {metric}", cells, "number"))
    margin = printed.gains(points["margin"], points["margin_half"])
    shown.append(Column("margin", "margin % (± 95 % t-interval)", margin, "number"))
    return [*shown, Column("verdict", "verdict", list(points["verdict"]), "setting")]


def numbers(front: Front) -> pd.DataFrame:
    """The points with full precision: `<task>_mean`, `<task>_sd`, `margin_mean` and `margin_half` in percent, `margin_n`."""
    points = front.points
    kept = {name: points[name] for name in ["family", *settings(front), *OWN, "n"]}
    for task, metric in front.tasks.items():
        kept |= {f"{task}_metric": pd.Series(metric, index=points.index)}
        kept |= {f"{task}_mean": points[task], f"{task}_sd": points[f"{task}_sd"]}
    kept |= {"margin_mean": points["margin"], **{name: points[name] for name in ("margin_half", "margin_n", "verdict")}}
    return pd.DataFrame(kept)


def render(front: Front, name: str) -> str:
    """`front` in the format `name` (table, csv, md, json or latex)."""
    if name == "csv":
        return numbers(front).to_csv(index=False)
    if name == "json":
        return formats.as_json(numbers(front))
    shown = columns(front)
    constants = _constants(front, shown)
    if name == "md":
        return formats.as_markdown(shown, constants)
    if name == "latex":
        return formats.as_latex(shown, constants)
    notes = "".join(f"{note}\n" for note in front.notes)
    return constants + "\n" * bool(constants) + plain.grid(shown, _ends(front)) + notes


def draw(front: Front, console: "Console | None" = None) -> None:
    """Prints `front` as wide as the terminal is."""
    from rich.console import Console

    console = console or Console()
    if not console.is_terminal:
        console.file.write(render(front, "table"))
        return
    shown = columns(front)
    table.put(console, _constants(front, shown), table.fitting(shown, console.width), _ends(front), front.notes)


def _constants(front: Front, shown: list[Column]) -> str:
    hidden = [Column(name, name, [], "setting") for name in ("task", "kind", "weighting")]
    return layout.constants_line(front.summary, [*shown, *hidden])


def _ends(front: Front) -> set[int]:
    """The last point of each part: static ones, learned ones, front by front."""
    part = front.points["family"].astype(str) + front.points["static"].astype(str)
    return set(part.index[(part != part.shift(-1)) & (part.index < len(part) - 1)])
