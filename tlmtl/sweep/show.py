"""What a sweep looks like while it runs: one live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tlmtl.sweep.plan import Job, expected
from tlmtl.sweep.timeleft import TimeLeft, clock

HEARTBEAT = 60.0  # seconds without a line after which one says that the sweep is alive


class Board(Protocol):
    def started(self, item: Job) -> None: ...

    def moved(self, item: Job, step: int, total: int, metric: str) -> None: ...

    def ended(self, item: Job, seconds: float) -> None: ...

    def said(self, text: str) -> None: ...

    def tick(self) -> None:
        """Called a few times a second, whether anything happens or not."""


class Lines:
    """A line for each run that ends, and one now and then when none does."""

    def __init__(self, jobs: list[Job], workers: int, quiet: bool) -> None:
        self.jobs, self.quiet = jobs, quiet  # a search's list grows
        self.count, self.told, self.left = 0, time.monotonic(), TimeLeft(workers)
        self.metrics: dict[str, str] = {}

    def started(self, item: Job) -> None: ...

    def moved(self, item: Job, step: int, total: int, metric: str) -> None:
        self.left.moved(item, step, total)
        self.metrics[item.key] = metric

    def ended(self, item: Job, seconds: float) -> None:
        self.left.ended(item, seconds)
        self.count += 1
        reached = f"val {self.metrics[item.key]}" if self.metrics.get(item.key) else ""
        more = ", ".join(text for text in (reached if item.state == "done" else "", item.note) if text)
        self._print(
            f"[{self.count}/{expected(self.jobs)}] {item.label}: {item.state} after {seconds:.1f} s"
            + (more and f", {more}")
        )

    def said(self, text: str) -> None:
        self.told = time.monotonic()
        print(text, file=sys.stderr, flush=True)

    def tick(self) -> None:
        if time.monotonic() - self.told > HEARTBEAT:
            self._print(counted(self.jobs, self.left))

    def _print(self, text: str) -> None:
        self.told = time.monotonic()
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)


class Table:
    """A table of what runs and what has ended, with the time left, redrawn a few times a second."""

    def __init__(self, jobs: list[Job], workers: int) -> None:
        from rich.console import Console
        from rich.live import Live

        self.jobs, self.left = jobs, TimeLeft(workers)
        self.at: dict[str, tuple[int, int, str]] = {}
        self.seconds: dict[str, float] = {}
        self.ends: list[Job] = []
        self.stopping = ""
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, get_renderable=self._draw, refresh_per_second=4, transient=True)

    def started(self, item: Job) -> None:
        self.at[item.key] = (0, 0, "")

    def moved(self, item: Job, step: int, total: int, metric: str) -> None:
        self.left.moved(item, step, total)
        self.at[item.key] = (step, total, metric)

    def ended(self, item: Job, seconds: float) -> None:
        self.left.ended(item, seconds)
        self.seconds[item.key] = seconds
        self.ends.append(item)
        if item.state == "failed":
            self.live.console.print(f"failed: {item.label}: {item.note}", style="red", markup=False, highlight=False)

    def said(self, text: str) -> None:
        self.live.console.print(text, style="yellow", markup=False, highlight=False)

    def tick(self) -> None: ...

    def _draw(self) -> Any:
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        running = [item for item in self.jobs if item.state == "running"]
        room = max(2, self.console.height - 4)
        shown, more = running[: room - 1], len(running) - (room - 1)
        ended = self.ends[max(0, len(self.ends) - max(0, room - len(shown))) :]
        rows = [self._row(item) for item in [*ended, *shown]]
        widths = [max(map(len, column), default=0) for column in zip(*rows, strict=True)] if rows else [0] * 4
        narrow = self.console.width < 60  # the metric goes first, then the label's middle
        label = self.console.width - sum(widths[1:3]) - (0 if narrow else widths[3]) - (4 if narrow else 6)
        grid = RichTable(box=None, pad_edge=False, show_header=not narrow, padding=(0, 2 if not narrow else 1, 0, 0))
        for name in ("run", "", "step", "validation")[: 3 if narrow else 4]:
            grid.add_column(name, no_wrap=True, justify="right" if name == "step" else "left")
        style = {"✓": "green", "✗": "red"}
        for name, mark, step, metric in rows:
            cells = (Text(short(name, max(8, label))), Text(mark, style=style.get(mark, "")), Text(step), Text(metric))
            grid.add_row(*cells[: 3 if narrow else 4])
        lines = [Text(f"... and {more} more running", style="dim")] if more > 0 else []
        return Group(grid, *lines, Text(counted(self.jobs, self.left), style="dim"))

    def _row(self, item: Job) -> tuple[str, str, str, str]:
        step, total, metric = self.at.get(item.key, (0, 0, ""))
        mark = {"done": "✓", "failed": "✗", "running": "…"}.get(item.state, "-")
        if item.state == "running":
            return item.label, mark, f"{step}/{total}" if total else "starting", metric
        return item.label, mark, f"{self.seconds.get(item.key, 0):.1f} s", metric


def counted(jobs: list[Job], left: TimeLeft) -> str:
    """`3 of 50 runs ended, 1 failed, 2 running, about 5:20 left`."""
    states = [item.state for item in jobs]
    ended = sum(state in ("done", "failed", "pruned") for state in states)
    parts = [f"{ended} of {expected(jobs)} runs ended"]
    parts += [
        f"{states.count(state)} {state}" for state in ("failed", "pruned", "interrupted", "running") if state in states
    ]
    seconds = left.left(jobs)
    if seconds is not None and ended < expected(jobs):
        parts.append(f"about {clock(seconds)} left")
    return ", ".join(parts)


def short(label: str, width: int) -> str:
    """`label` in `width` characters: what is cut is in its middle, as seeds stand at the end."""
    if len(label) <= width:
        return label
    tail = max(0, (width - 1) * 2 // 3)
    return f"{label[: width - 1 - tail]}…{label[len(label) - tail :]}"


@contextmanager
def board(jobs: list[Job], wanted: bool, workers: int) -> Iterator[Board]:
    """What fits where standard error goes."""
    if wanted and sys.stderr.isatty():
        table = Table(jobs, workers)
        with table.live:
            yield table
    else:
        yield Lines(jobs, workers, quiet=not wanted)
