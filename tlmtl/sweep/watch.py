"""What became of jobs that another launcher runs, seen from the planning process."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tlmtl import stopping
from tlmtl.results import RunFolder, read_rows
from tlmtl.sweep.plan import Job
from tlmtl.sweep.show import Board

LOOK = 0.5  # seconds between two looks
ENDED = ("done", "failed", "pruned")


class Watch:
    """Looks at the folders of jobs that run elsewhere, and tells the board."""

    def __init__(self, jobs: list[Job], live: Board, stop: Path) -> None:
        self.jobs, self.live, self.stop = jobs, live, stop
        self.before = {item.key: RunFolder(item.folder).record for item in jobs}
        self.stamp = {item.key: _stamp(item.folder) for item in jobs}
        self.since: dict[str, float] = {}
        self.over: set[str] = set()

    @property
    def began(self) -> bool:
        return bool(self.since)

    def began_before(self, item: Job) -> str | None:
        return self.before[item.key].get("started")

    def unfinished(self) -> list[Job]:
        return [item for item in self.jobs if item.state not in ENDED]

    @contextmanager
    def looking(self, asked: stopping.Stop) -> Iterator[None]:
        """Look twice a second while the block lasts, and once after it; write the stop file when a stop is asked for."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(LOOK):
                if asked.asked is not None and not self.stop.exists():
                    self.stop.touch()
                self.look()
                self.live.tick()

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.look()

    def look(self) -> None:
        for item in self.jobs:
            if item.key in self.over or _stamp(item.folder) == self.stamp[item.key]:
                continue
            record = RunFolder(item.folder).record
            status = record.get("status")
            if item.key not in self.since:
                self.since[item.key] = time.monotonic()
                item.state = "running"
                self.live.started(item)
            # an interrupted run may be in a queue again; it is not when the sweep itself was told to stop
            if status in ENDED or (status == "interrupted" and self.stop.exists()):
                self.over.add(item.key)
                item.state, item.note = status, record.get("error") or ""
                self.live.moved(item, item.steps, item.steps, _validation(item.folder))
                self.live.ended(item, time.monotonic() - self.since[item.key])


def _stamp(folder: Path) -> int:
    try:
        return os.stat(folder / "run.json").st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0


def _validation(folder: Path) -> str:
    """A run's first metric on validation, as the pool's lines show it."""
    try:
        rows = read_rows(folder / "results.csv")
    except OSError:
        return ""
    found = ((name[4:], value) for row in rows for name, value in row.items() if name.startswith("val/") and value)
    return next((f"{name} {float(value):.3f}" for name, value in found if name != "loss"), "")


def submitit_rest(folder: str, name: str) -> None:
    """Wait for submitit's jobs after one of them gave no answer, as its launcher raises at the first such.

    Arguments:
        folder: of its files, with `%j` for a job.
        name: the launcher's.
    """
    import psutil
    import submitit

    if name == "submitit_local":
        mine = []
        for process in psutil.Process().children():
            with suppress(psutil.Error):
                mine += [process] if "submitit.local._local" in process.cmdline() else []
        psutil.wait_procs(mine)
        return
    here = Path(folder.partition("%")[0])
    jobs: list[submitit.SlurmJob] = [submitit.SlurmJob(folder=folder, job_id=path.name) for path in here.glob("[0-9]*")]
    while not all(job.done() for job in jobs):
        time.sleep(LOOK)
