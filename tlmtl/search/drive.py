"""Runs searches side by side until each has its trials, and says in `tuning.csv` what each trial gave."""

import csv
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from optuna.pruners import NopPruner

from tlmtl import files, hardware
from tlmtl.results import RunFolder
from tlmtl.search.study import Entry, Search
from tlmtl.sweep.plan import Job, Judge, More, Sweep
from tlmtl.sweep.pool import run_jobs
from tlmtl.sweep.run import Runner

TUNING = "tuning.csv"


class Drive:
    """A `Runner` of searches: when a run ends, the search with the fewest trials is asked for the next one.

    A runner other than the pool is given as many at a time as run at once, and all of what is drawn blindly: its queue may
    be a long one.
    """

    def __init__(self, searches: Mapping[str, Search], sweep: Sweep, runner: Runner, at_once: int, table: Path) -> None:
        """`searches`: by method, "" where there is one alone. `table`: where `tuning.csv` is kept up to date."""
        self.searches, self.sweep, self.runner, self.table = searches, sweep, runner, table
        blind = all(search.sampling.blind for search in searches.values())
        self.at_once = sys.maxsize if blind and runner is not run_jobs else at_once
        self.prunes = any(not isinstance(search.study.pruner, NopPruner) for search in searches.values())
        self.owner: dict[str, Search] = {}
        self.stopped = False

    def begin(self) -> None:
        """Ask for the first jobs, so that the sweep knows whether there is something to do."""
        self.waiting = self._next(self.at_once)

    def __call__(self, jobs: list[Job], judge: Judge | None = None, more: More | None = None) -> None:
        batch = self.waiting
        while batch:
            self.runner(list(batch), self._judge if self.prunes else None, self._more)
            for job in batch:
                self.owner[job.key].ended(job)  # again for those that `_more` was told of, which changes nothing
            self.stopped = self.stopped or any(job.state == "interrupted" for job in batch)
            batch = [] if self.stopped else self._next(self.at_once)

    def _judge(self, job: Job, step: int, score: float) -> bool:
        return self.owner[job.key].judge(job, step, score)

    def _more(self, job: Job) -> list[Job]:
        self.owner[job.key].ended(job)
        self.stopped = self.stopped or job.state == "interrupted"
        return [] if self.stopped else self._next(1)

    def _next(self, room: int) -> list[Job]:
        found: list[Job] = []
        left = list(self.searches.values())
        while left and len(found) < room:
            search = min(left, key=lambda one: len(one.entries))
            jobs = search.jobs(1)
            if not jobs:
                left.remove(search)
            for job in jobs:
                self.owner[job.key] = search
            found += jobs
        if found:
            found[-1].to_come = sum(search.left for search in self.searches.values())
        unique: dict[str, Job] = {}
        for search in self.searches.values():
            for entry in search.entries.values():
                if entry.job is not None:
                    unique.setdefault(entry.job.key, entry.job)
        self.sweep.jobs[:] = unique.values()
        self.write()
        return found

    def write(self) -> None:
        rows = [row(method, search, entry) for method, search in self.searches.items() for entry in ordered(search)]
        if rows:
            names = [
                name for name in dict.fromkeys(key for one in rows for key in one) if name != "method" or rows[0][name]
            ]
            text = io.StringIO()
            writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            files.write_text(self.table, text.getvalue())


def ordered(search: Search) -> list[Entry]:
    return sorted(search.entries.values(), key=lambda entry: entry.number)


def row(method: str, search: Search, entry: Entry) -> dict[str, Any]:
    """A trial in `tuning.csv`; what was not measured is empty."""
    job = entry.job
    return {
        "method": method,
        "trial": entry.number,
        "state": entry.state,
        "score": entry.score,
        **{key.lstrip("+"): entry.settings.get(key) for key in search.space.of},
        "seconds": seconds(entry),
        "run": job.key if job else None,
        "note": entry.note or None,
    }


def seconds(entry: Entry) -> float | None:
    """What the trial's run took in training and evaluation."""
    costs = RunFolder(entry.job.folder).record.get("costs") if entry.job and entry.state == "done" else None
    return costs["train_seconds"] + costs["eval_seconds"] if costs else None


def at_once(wanted: int | None, cfg: DictConfig, threads: int) -> int:
    """How many runs at once: as many as were asked for, else as the pool would take."""
    return wanted or cfg.hardware.workers or max(1, hardware.threads_of("auto", None) // threads)
