"""The table in a terminal, as wide as the terminal is; elsewhere `plain.py`. Files for programs: `formats.py`."""

from typing import TYPE_CHECKING

import pandas as pd

from tlmtl.compare import costs, layout, plain
from tlmtl.compare.groups import Summary, summarise
from tlmtl.compare.layout import Column

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FIRST_WIDE = 0x1100  # letters from here on may take two columns, but for the lines and signs below
SIGNS = "─↑↓◆"

__all__ = ["Summary", "draw", "show", "summarise"]


def show(rows: pd.DataFrame, console: "Console | None" = None) -> None:
    """Prints the default table of `rows` (columns of `results.csv`), as a sweep does at its end."""
    draw(summarise(rows), console)


def draw(summary: Summary, console: "Console | None" = None, chosen: list[str] | None = None) -> None:
    """Prints `summary` with the `chosen` columns, or with those that matter and fit."""
    from rich.console import Console

    console = console or Console()
    if not console.is_terminal:
        console.file.write(plain.render(summary, chosen))
        return
    asked = layout.table(summary, chosen)
    shown, left_out = _fitting(asked, console.width, keep_all=bool(chosen))
    notes = plain.notes(summary)
    constants = layout.constants_line(summary, asked)
    if left_out:
        example = ",".join([asked[0].name, "n", "test", left_out[0]])
        notes = costs.unmarked(notes) if "pareto" in left_out else notes
        notes.append(f"Left out in this width: {', '.join(left_out)}. To see one: --columns {example}.")
    put(console, constants, shown if len(summary.groups) else [], plain.blocks(summary), notes)


def put(console: "Console", constants: str, shown: list[Column], ends: set[int], notes: list[str]) -> None:
    """Prints a line of constants, a table with gaps after the rows `ends`, and notes."""
    if constants:
        console.print(constants, style="dim", markup=False, highlight=False)
    if shown and _simple(shown, console):
        text = plain.grid(shown, ends, styled=console.color_system is not None and not console.no_color)
        console.file.write(text)  # thousands of rows take rich seconds
    elif shown:
        console.print(_table(shown, ends))
    for note in notes:
        console.print(note, style="dim", markup=False, highlight=False)


def _fitting(shown: list[Column], width: int, keep_all: bool) -> tuple[list[Column], list[str]]:
    """Columns that fit into `width`: costs go first, then settings share one column; and the names that went.

    Beside gains, figures on validation go too.
    """

    left_out: list[str] = []
    while not keep_all and shown[-1].kind == "cost" and _width(shown) > width:
        left_out.insert(0, shown[-1].name)
        shown = shown[:-1]
    if not keep_all and _width(shown) > width and any(column.name in ("delta", "difference") for column in shown):
        left_out.insert(0, "val")  # what was gained on test needs its place
        shown = [column for column in shown if column.name != "val"]
    return fitting(shown, width), left_out


def fitting(shown: list[Column], width: int) -> list[Column]:
    """`shown`, with the settings in one column where they don't fit into `width` side by side."""
    return _joined(shown) if _width(shown) > width else shown


def _width(shown: list[Column]) -> int:
    return sum(map(plain.width, shown)) + len(plain.GAP) * (len(shown) - 1)


def _joined(shown: list[Column]) -> list[Column]:
    """All settings in one column, which can be folded: for consoles that can't hold them side by side."""
    settings = [column for column in shown if column.kind == "setting"]
    cells = [" · ".join(cell or "-" for cell in row) for row in zip(*(c.cells for c in settings), strict=True)]
    merged = Column("", " · ".join(column.title for column in settings), cells, "setting")
    return [merged, *(column for column in shown if column.kind != "setting")] if len(settings) > 1 else shown


def _simple(shown: list[Column], console: "Console") -> bool:
    """Whether a table fits as it is: nothing to fold, no wide letters, no control characters of some stranger's."""
    characters = set("".join("".join(column.cells) for column in shown)) - set(SIGNS)
    usual = all(character >= " " and ord(character) < FIRST_WIDE for character in characters)
    return usual and not console.legacy_windows and _width(shown) <= console.width


def _table(shown: list[Column], blocks: set[int]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False, header_style="bold")
    for column in shown:
        is_setting = column.kind == "setting"
        table.add_column(
            Text(plain.title(column)), justify="left" if is_setting else "right", overflow="fold",
            no_wrap=not is_setting, style="dim" if column.kind == "cost" else "",
        )  # fmt: skip
    for at, row in enumerate(zip(*(column.cells for column in shown), strict=True)):
        table.add_row(*map(Text, row), end_section=at in blocks)
    return table
