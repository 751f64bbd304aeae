"""A planned sweep from its first missing run to its table, whoever runs the jobs: the pool, or a launcher for clusters."""

import logging
from typing import Protocol

from tlmtl import results
from tlmtl.compare import table
from tlmtl.sweep.plan import Job, Judge, More, Sweep

log = logging.getLogger("tlmtl")


class Runner(Protocol):
    """Runs jobs, each into its own folder, and sets their `state` (done | failed | interrupted | pruned) and `note`.

    `judge` and `more` are asked by the pool alone: elsewhere nothing is pruned, and a search goes on in batches.
    """

    def __call__(self, jobs: list[Job], judge: Judge | None = None, more: More | None = None) -> None: ...


def run_sweep(sweep: Sweep, runner: Runner, judge: Judge | None = None) -> bool:
    """Run what is missing, collect all rows and print the table. Returns whether a run failed."""
    missing = sweep.missing
    done = len(sweep.jobs) - len(missing)
    log.info("%d run(s): %d to do, %d there already. %s", len(sweep.jobs), len(missing), done, sweep.folder)
    try:
        if missing:
            runner(missing, judge)
    finally:
        rows = collect(sweep)
    import pandas as pd

    if rows:
        shown = pd.read_csv(sweep.folder / "results.csv")
        table.show(shown[shown["config_hash"].isin([item.key for item in sweep.jobs])])
    print(f"{len(rows)} row(s) in {sweep.folder / 'results.csv'}")
    failed = [item for item in sweep.jobs if item.state == "failed"]
    for item in failed:
        log.error("failed: %s: %s (%s)", item.label, item.note, item.folder / "log.txt")
    return bool(failed)


def collect(sweep: Sweep) -> list[dict[str, str]]:
    """The rows of all the sweep's runs, from their folders, into its own results.csv; this command's jobs come first."""
    mine = [item.folder for item in sweep.jobs]
    others = sorted(path.parent for path in sweep.folder.glob("*/run.json") if path.parent not in mine)
    rows = [row for path in [*mine, *others] if (p := path / "results.csv").is_file() for row in results.read_rows(p)]
    if rows:
        results.write_rows(sweep.folder / "results.csv", rows)
    return rows
