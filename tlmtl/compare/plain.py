"""The table as plain text, for files, pipes and logs: nothing cut, nothing folded, no colours."""

from collections.abc import Sequence
from itertools import pairwise

from tlmtl.compare import layout
from tlmtl.compare.groups import Summary
from tlmtl.compare.layout import Column

GAP = "  "  # between columns
BOLD, DIM, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"
TITLES = {  # in two lines, so that more columns fit; the names for `--columns` are those with underscores
    "labels_per_class": "labels\nper class",
    "label_fraction": "label\nfraction",
    "batch_size": "batch\nsize",
    "weight_decay": "weight\ndecay",
    "train_seconds": "train\nseconds",
    "eval_seconds": "eval\nseconds",
    "seconds_per_step": "seconds\nper step",
    "peak_memory_mb": "peak\nmemory mb",
    "parameters_trained": "parameters\ntrained",
    "delta": "delta %\n± 95 % t",
    "difference": "difference\n± 95 % t",
    "p": "p\n(least)",
    "p_holm": "p\nHolm",
    "boot": "test set\n95 % bootstrap",
    "delta_m": "delta_m\n% ± sd",
    "margin": "margin %\n± 95 % t",
}


def render(summary: Summary, chosen: list[str] | None = None) -> str:
    """Constants, table and notes of `summary`, with the `chosen` columns or with those that matter."""
    shown = layout.table(summary, chosen)
    table = grid(shown, blocks(summary)) if len(summary.groups) else ""
    constants = layout.constants_line(summary, shown)
    return constants + "\n" * bool(constants) + table + "".join(f"{note}\n" for note in notes(summary))


def grid(shown: list[Column], ends: set[int], styled: bool = False) -> str:
    """Titles and cells of `shown`, with an empty line after the rows `ends`; with `styled` for a terminal, costs dim."""
    widths = [width(column) for column in shown]
    titles = [title(column).rpartition("\n") for column in shown]
    heads: list[Sequence[str]] = [[upper for upper, _, _ in titles], [lower for _, _, lower in titles]]
    lines = [*(head for head in heads if any(head)), ["─" * cells for cells in widths]]
    top = len(lines)
    for at, row in enumerate(zip(*(column.cells for column in shown), strict=True)):
        lines += [row, [""] * len(shown)] if at in ends else [row]
    if not styled:
        return "".join(_line(line, shown, widths) for line in lines)
    # costs come last
    usual = [column for column in shown if column.kind != "cost"]
    start = sum(widths[: len(usual)]) + len(GAP) * len(usual)
    texts = [_line(line, shown, widths).rstrip("\n") for line in lines]
    heads_said = [f"{BOLD}{text}{PLAIN}\n" for text in texts[: top - 1]]
    return "".join([*heads_said, *(_dim_after(text, start) for text in texts[top - 1 :])])


def notes(summary: Summary) -> list[str]:
    nothing = [] if len(summary.groups) else ["No finished run with a metric to compare."]
    return [*nothing, *summary.notes]


def title(column: Column) -> str:
    return TITLES.get(column.name, column.title)


def width(column: Column) -> int:
    return max(map(len, [*title(column).split("\n"), *column.cells]))


def blocks(summary: Summary) -> set[int]:
    """The rows after which the task changes, if each task's rows stand together."""
    tasks = list(summary.groups["task"])
    ends = {at for at, (task, following) in enumerate(pairwise(tasks)) if task != following}
    return ends if len(ends) < len(set(tasks)) else set()


def _dim_after(text: str, start: int) -> str:
    return f"{text[:start]}{DIM}{text[start:]}{PLAIN}\n" if len(text) > start else f"{text}\n"


def _line(cells: Sequence[str], shown: list[Column], widths: list[int]) -> str:
    padded = [f"{c:<{w}}" if s.kind == "setting" else f"{c:>{w}}" for c, s, w in zip(cells, shown, widths, strict=True)]
    return GAP.join(padded).rstrip() + "\n"
