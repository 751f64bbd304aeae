"""The table as text for other programs: CSV and JSON with full precision, Markdown and LaTeX as they are read."""

import json
import math
from collections.abc import Callable

import pandas as pd

from tlmtl import columns
from tlmtl.compare import baseline, delta, keys, layout, plain
from tlmtl.compare.groups import Summary
from tlmtl.compare.layout import Column

SUFFIXES = {".csv": "csv", ".json": "json", ".md": "md", ".tex": "latex"}
ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "·": r"$\cdot$",
    "◆": r"$\diamond$", "↓": r"$\downarrow$", "↑": r"$\uparrow$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip


def render(summary: Summary, name: str, chosen: list[str] | None = None) -> str:
    """`summary` in the format `name` (table, csv, md, json or latex)."""
    makers: dict[str, Callable[[Summary, list[str] | None], str]] = {
        "table": plain.render, "csv": _csv, "json": _json, "md": _markdown, "latex": _latex,
    }  # fmt: skip
    return makers[name](summary, chosen)


def numbers(summary: Summary, chosen: list[str] | None = None) -> pd.DataFrame:
    """Groups, with mean, standard deviation and n in columns of their own; by default with all settings in use.

    Gains are percent: `delta_mean`, half its 95 % t-interval `delta_half` over `delta_n` seeds, `delta_m_mean`, `delta_m_sd`.
    """
    groups = summary.groups
    if chosen:
        shown = [keys.resolve(name, summary.known(), "--columns") for name in chosen]
    else:
        filled = [name for name in [*summary.settings, *columns.COSTS] if name in groups and groups[name].notna().any()]
        settings = [name for name in filled if name not in columns.COSTS]
        more = [name for name in summary.varying() if name not in settings]
        gains = [name for name in delta.COLUMNS if groups[name].notna().any()]
        marked = ["pareto"] if groups["pareto"].any() else []
        costs = [
            name for name in filled if name in columns.COSTS and name != "labels_seen"
        ]  # of a task, not of the run
        against = ["is_baseline", *baseline.COLUMNS] if "is_baseline" in groups else []
        shown = [*settings, *more, "metric", "n", "test", "val", *against, *gains, *marked, *costs]
    named = {}
    for name in shown:
        if name in ("test", "val") or keys.is_metric(name):
            named[f"{name}_mean"], named[f"{name}_sd"] = groups[name], groups[f"{name}_sd"]
        elif name == "delta":
            named |= {"delta_mean": groups[name], **{key: groups[key] for key in ("delta_half", "delta_n")}}
        elif name == "boot":
            named |= {one: groups[one] for one in ("boot_low", "boot_high")}
        elif name == "delta_m":
            named |= {"delta_m_mean": groups[name], "delta_m_sd": groups["delta_m_sd"]}
        else:
            named[name] = _whole(groups[name])
    return pd.DataFrame(named)


def _whole(cells: pd.Series) -> pd.Series:
    """Numbers that are all whole as integers: 5 labels, not 5.0."""
    if not pd.api.types.is_float_dtype(cells) or not cells.notna().any():
        return cells
    return cells.astype("Int64") if (cells.dropna() % 1 == 0).all() else cells


def _csv(summary: Summary, chosen: list[str] | None) -> str:
    return numbers(summary, chosen).to_csv(index=False)


def _json(summary: Summary, chosen: list[str] | None) -> str:
    return as_json(numbers(summary, chosen))


def as_json(frame: pd.DataFrame) -> str:
    """A list of objects, one a row; null for what is missing."""
    records = frame.astype(object).to_dict(orient="records")
    finite = [{str(key): _finite(value) for key, value in record.items()} for record in records]
    return json.dumps(finite, indent=2) + "\n"


def _finite(value: object) -> object:
    """JSON knows neither missing nor infinite numbers: null."""
    return None if pd.isna(value) or (isinstance(value, float) and not math.isfinite(value)) else value  # type: ignore[call-overload]


def _markdown(summary: Summary, chosen: list[str] | None) -> str:
    shown = layout.table(summary, chosen)
    return as_markdown(shown, layout.constants_line(summary, shown))


def as_markdown(shown: list[Column], constants: str) -> str:
    lines = [[column.title for column in shown], ["---" if column.kind == "setting" else "---:" for column in shown]]
    lines += [[cell.strip() for cell in row] for row in zip(*(column.cells for column in shown), strict=True)]
    body = "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    return constants + "\n\n" * bool(constants) + body


def _latex(summary: Summary, chosen: list[str] | None) -> str:
    shown = layout.table(summary, chosen)
    return as_latex(shown, layout.constants_line(summary, shown))


def as_latex(shown: list[Column], constants: str) -> str:
    rows = [[cell.strip() for cell in row] for row in zip(*(column.cells for column in shown), strict=True)]
    head, *body = [" & ".join(map(_escape, line)) + r" \\" for line in [[column.title for column in shown], *rows]]
    align = "".join("l" if column.kind == "setting" else "r" for column in shown)
    lines = [r"\begin{tabular}{" + align + "}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    comments = [r"% needs \usepackage{booktabs}", f"% {constants}"]
    return "".join(f"{line}\n" for line in [*comments, *lines])


def _escape(text: str) -> str:
    return "".join(ESCAPES.get(character, character) for character in text)
