"""What is kept, as a table in a terminal or as plain lines elsewhere."""

import time
from pathlib import Path

from tlmtl.cache import contents
from tlmtl.schema import Output


def show(root: Path) -> None:
    """Prints a row for each thing that is kept, and what all of it takes."""
    from rich.console import Console
    from rich.table import Table

    there = contents.entries(root)
    if not there:
        print(f"Nothing is kept in {root}.")
        return
    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=10_000)  # nobody wants a pipe's lines broken
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("kind", "of", "rows", "size", "made", "used", "where"):
        right = name in ("rows", "size")
        grid.add_column(
            name, justify="right" if right else "left", overflow="fold", no_wrap=name not in ("of", "where")
        )
    now = time.time()
    for one in there:
        rows = "" if one.rows is None else f"{one.rows:,}"
        ages = ["" if when is None else f"{age_of(now - when)} ago" for when in (one.made, one.used)]
        where = one.path.relative_to(root)
        grid.add_row(_plain(one.kind), _plain(one.of), rows, bytes_of(one.size), *ages, _plain(str(where)))
    out.print(grid)
    total, limited = sum(one.size for one in there), sum(one.size for one in there if one.kind in contents.STORES)
    limit = f"at most {Output().cache_mb:,} MB, unless a run sets output.cache_mb"
    print(f"\n{bytes_of(total)} in {root}. Features and images: {bytes_of(limited)} ({limit}).")


def _plain(text: str) -> str:
    """Without what could steer a terminal or be taken for markup: names may be a stranger's."""
    from rich.markup import escape

    return escape("".join(letter if letter.isprintable() else "?" for letter in text))


def bytes_of(size: float) -> str:
    """`0 B`, `12 KB`, `3.4 MB`, `1.2 GB`."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            break
        size /= 1024
    return f"{size:,.1f} {unit}" if unit in ("MB", "GB") and size < 100 else f"{size:,.0f} {unit}"


def age_of(seconds: float) -> str:
    """`5 s`, `12 min`, `7 h`, `3 days`."""
    for unit, length, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < most * length:
            return f"{max(0, seconds) / length:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
