"""A sweep's results.csv: the rows of all its runs, collected from their folders, which are where the truth lies.

The file is written anew after every run that ends, so that a sweep which is killed leaves what it has; the next command
of the sweep starts with mending it.
"""

import contextlib
import csv
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tlmtl import files, results

if TYPE_CHECKING:
    from tlmtl.sweep.plan import Sweep

log = logging.getLogger("tlmtl")
EVERY = 1.0  # seconds between looks for rows that are new
Rows = list[dict[str, str]]


class Collected:
    """What was read so far: a run's file is read again when it changed."""

    def __init__(self, sweep: "Sweep") -> None:
        self.sweep = sweep
        self.read: dict[Path, tuple[tuple[int, int], Rows]] = {}
        self.lock = threading.Lock()  # a thread collects while runs go on, the program itself at the end

    def write(self, unchanged: bool = True) -> Rows:
        """Collect all rows into the sweep's file; this command's jobs come first.

        Arguments:
            unchanged: whether the file is written although no run's has changed since the last time.
        """
        with self.lock:
            mine = [item.folder for item in self.sweep.jobs]
            others = sorted(set(_folders(self.sweep.folder)) - set(mine))
            changed = sum([self._look(path / "results.csv") for path in [*mine, *others]])
            rows = [
                row for path in [*mine, *others] for row in self.read.get(path / "results.csv", ((0, 0), Rows()))[1]
            ]
            if rows and (changed or unchanged):
                results.write_rows(self.sweep.folder / "results.csv", rows)
            return rows

    def _look(self, path: Path) -> bool:
        """Read the file if it is new; whether it was."""
        try:
            found = path.stat()
        except OSError:  # a run that has begun again has none
            return self.read.pop(path, None) is not None
        stamp = (found.st_mtime_ns, found.st_size)
        if path in self.read and self.read[path][0] == stamp:
            return False
        self.read[path] = (stamp, rows_of(path) or [])
        return True


def rows_of(path: Path) -> Rows | None:
    """The rows of a run, or None when its file is no table any more."""
    try:
        rows = results.read_rows(path)
    except (OSError, ValueError, csv.Error):
        rows = []
    if not rows or any(None in row or None in row.values() for row in rows):
        log.warning("%s holds no whole rows: it is left out of the sweep's table, and the run is made again.", path)
        return None
    return rows


@contextlib.contextmanager
def collecting(sweep: "Sweep") -> Iterator[Collected]:
    """Within, the sweep's results.csv follows the runs that end, whoever runs them."""
    collected, over = Collected(sweep), threading.Event()

    def follow() -> None:
        while not over.wait(EVERY):
            with contextlib.suppress(OSError):  # a full disk, say: the next look tries again
                collected.write(unchanged=False)

    with files.disk_errors():
        collected.write()
    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield collected
    finally:
        over.set()
        thread.join()


def _folders(sweep: Path) -> list[Path]:
    with os.scandir(sweep) as found:
        return [Path(one.path) for one in found if one.is_dir() and not one.name.startswith(".")]
