"""From sections to one HTML file that needs nothing else: style sheet, script and pictures stand in it."""

import base64
import hashlib
from collections.abc import Callable
from importlib.resources import files as package_files
from typing import Any

import pandas as pd

import tlmtl
from tlmtl.compare import layout, plain
from tlmtl.compare.groups import Summary
from tlmtl.compare.layout import Column
from tlmtl.report.sections import Section
from tlmtl.report.view import Panel


def render(drawn: Callable[[], object], **content: Any) -> str:
    """The page; `drawn` is called after each picture.

    What comes from tables, configs and file names is escaped by the template (jinja2's autoescape); pictures (SVG of our own
    making, with escaped texts) are not. A policy in the page forbids all requests, and any other script.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    script, sheet = (_own(name).strip() for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters["svg"] = lambda chart: (Markup(chart.svg()), drawn())[0]
    environment.filters["image"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode()
    template = environment.from_string(_own("page.html"))
    return template.render(
        script=Markup(script), sheet=Markup(sheet), digest=digest, version=tlmtl.__version__, **content
    )


def _own(name: str) -> str:
    return (package_files("tlmtl.report") / name).read_text(encoding="utf-8")


def table(summary: Summary, panels: list[Panel]) -> dict[str, Any]:
    """Columns and rows of the table: each cell as text, with what to sort it by where that is a number.

    The first column is the name that the charts call a row by; a setting that says just the same is left out.
    """
    told = pd.concat([panel.groups[["label", "best"]] for panel in panels]).reindex(summary.groups.index)
    names = [str(name) for name in told["label"]]
    shown = layout.table(summary)
    shown = [
        Column("", "set-up", names, "setting"),
        *(one for one in shown if [cell.strip() for cell in one.cells] != names),
    ]
    values = [_values(summary.groups, column) for column in shown]
    parts = [name.split(" · ") for name in names]
    said = [
        at > 0 and all(c.strip() in part for c, part in zip(one.cells, parts, strict=True))
        for at, one in enumerate(shown)
    ]
    rows = []
    for at, best in enumerate(told["best"]):
        cells = [
            {"text": column.cells[at].strip(), "by": value[at], "kind": column.kind + " said" * again}
            for column, value, again in zip(shown, values, said, strict=True)
        ]
        rows.append({"cells": cells, "best": bool(best)})
    heads = [
        {"title": _title(column), "numeric": any(value), "kind": column.kind + " said" * again}
        for column, value, again in zip(shown, values, said, strict=True)
    ]
    return {"heads": heads, "rows": rows, "constants": layout.constants_line(summary, shown)}


def _values(groups: pd.DataFrame, column: Column) -> list[str]:
    """By row, the number that a cell shows, "" for text and for none."""
    cells = groups[column.name] if column.name in groups else pd.Series("", index=groups.index)
    if not pd.api.types.is_numeric_dtype(cells) or pd.api.types.is_bool_dtype(cells):
        return [""] * len(cells)
    return ["" if pd.isna(value) else repr(float(value)) for value in cells]


def _title(column: Column) -> str:
    """In two lines where it is long."""
    return (
        plain.title(column) if column.name in plain.TITLES or column.kind != "cost" else column.title.replace("_", " ")
    )


def contents(sections: list[Section], more: dict[str, str]) -> list[tuple[str, str]]:
    """Anchors and titles, in the order of the page."""
    return [("table", "Table"), *((one.id, one.title) for one in sections), *more.items()]
