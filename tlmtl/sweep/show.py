"""What a sweep looks like while it runs: one live table on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tlmtl.sweep.plan import Job


class Board(Protocol):
    def started(self, item: Job) -> None: ...

    def moved(self, item: Job, step: int, total: int, metric: str) -> None: ...

    def ended(self, item: Job, seconds: float) -> None: ...


class Lines:
    """A line for each run that ends."""

    def __init__(self, jobs: list[Job], quiet: bool) -> None:
        self.jobs, self.count, self.quiet = jobs, 0, quiet  # a search's list grows
        self.metrics: dict[str, str] = {}

    def started(self, item: Job) -> None: ...

    def moved(self, item: Job, step: int, total: int, metric: str) -> None:
        self.metrics[item.key] = metric

    def ended(self, item: Job, seconds: float) -> None:
        self.count += 1
        if not self.quiet:
            said = item.note if item.state == "failed" else f"val {self.metrics.get(item.key, '')}"
            print(
                f"[{self.count}/{len(self.jobs)}] {item.label}: {item.state} after {seconds:.1f} s, {said}",
                file=sys.stderr,
            )


class Table:
    """A table of what runs and what has ended, with the time left, redrawn a few times a second."""

    def __init__(self, jobs: list[Job]) -> None:
        from rich.console import Console
        from rich.live import Live

        self.jobs, self.began = jobs, time.monotonic()
        self.at: dict[str, tuple[int, int, str]] = {}
        self.seconds: dict[str, float] = {}
        self.console = Console(stderr=True)
        self.live = Live(console=self.console, get_renderable=self._draw, refresh_per_second=4, transient=True)

    def started(self, item: Job) -> None:
        self.at[item.key] = (0, 0, "")

    def moved(self, item: Job, step: int, total: int, metric: str) -> None:
        self.at[item.key] = (step, total, metric)

    def ended(self, item: Job, seconds: float) -> None:
        self.seconds[item.key] = seconds
        if item.state == "failed":
            self.live.console.print(f"failed: {item.label}: {item.note}", style="red", markup=False)

    def _draw(self):
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        ended = [item for item in self.jobs if item.key in self.seconds]
        running = [item for item in self.jobs if item.state == "running"]
        grid = RichTable(box=None, pad_edge=False)
        for name in ("run", "", "step", "validation"):
            grid.add_column(name, no_wrap=name != "run", justify="right" if name == "step" else "left")
        room = max(3, self.console.height - len(running) - 4)
        for item in [*ended[-room:], *running]:
            step, total, metric = self.at.get(item.key, (0, 0, ""))
            took = f"{self.seconds[item.key]:.1f} s" if item.key in self.seconds else ""
            mark = {"done": "[green]✓[/]", "failed": "[red]✗[/]"}.get(item.state, "…")
            grid.add_row(Text(item.label), mark, took or (f"{step}/{total}" if total else "starting"), metric)
        left = ""
        if ended:
            rate = (time.monotonic() - self.began) / len(ended)
            left = f", about {rate * (len(self.jobs) - len(ended)):.0f} s left"
        return Group(grid, Text(f"{len(ended)} of {len(self.jobs)} runs{left}", style="dim"))


@contextmanager
def board(jobs: list[Job], wanted: bool) -> Iterator[Board]:
    """What fits where standard error goes."""
    if wanted and sys.stderr.isatty():
        table = Table(jobs)
        with table.live:
            yield table
    else:
        yield Lines(jobs, quiet=not wanted)
