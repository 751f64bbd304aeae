"""A planned sweep from its first missing run to its table, whoever runs the jobs: the pool, or a launcher for clusters."""

import logging
from typing import Protocol

from tlmtl import files
from tlmtl.compare import table
from tlmtl.sweep.collect import Collected, Rows, collecting
from tlmtl.sweep.plan import Job, Judge, More, Sweep

log = logging.getLogger("tlmtl")
SHOWN = 20  # failed runs that are named in full


class Runner(Protocol):
    """Runs jobs, each into its own folder, and sets their `state` (done | failed | interrupted | pruned) and `note`.

    `judge` and `more` are asked by the pool alone: elsewhere nothing is pruned, and a search goes on in batches.
    """

    def __call__(self, jobs: list[Job], judge: Judge | None = None, more: More | None = None) -> None: ...


def run_sweep(sweep: Sweep, runner: Runner, judge: Judge | None = None, about: str = "") -> bool:
    """Run what is missing, collect all rows and print the table. Returns whether a run failed.

    With `sweep.dry_run`, say what would be run.

    Arguments:
        about: what is said first, where the jobs to come are not known yet.
    """
    if sweep.dry:
        from tlmtl.sweep.dry import tell

        tell(sweep)
        return False
    missing = sweep.missing
    done = len(sweep.jobs) - len(missing)
    about = about or f"{len(sweep.jobs)} run(s): {len(missing)} to do, {done} there already."
    log.info("%s %s", about, sweep.folder)
    try:
        with collecting(sweep):
            if missing:
                runner(missing, judge)
    finally:
        rows = collect(sweep)
    return show(sweep, rows)


def collect(sweep: Sweep) -> Rows:
    """The rows of all the sweep's runs, from their folders, into its own results.csv; this command's jobs come first."""
    with files.disk_errors():
        return Collected(sweep).write()


def show(sweep: Sweep, rows: Rows) -> bool:
    """Print the table of this command's runs, and what failed. Returns whether something did."""
    import pandas as pd

    if rows:
        shown = pd.read_csv(sweep.folder / "results.csv")
        table.show(shown[shown["config_hash"].isin([item.key for item in sweep.jobs])])
    print(f"{len(rows)} row(s) in {sweep.folder / 'results.csv'}")
    if sweep.equal:
        print(f"{len(sweep.equal)} job(s) equal another one, so they ran once and stand under its name:")
        for label, other in sweep.equal:
            print(f"  {label} = {other}")
    failed = [item for item in sweep.jobs if item.state == "failed"]
    for item in failed[:SHOWN]:
        log.error("failed: %s: %s (%s)", item.label, item.note, item.folder / "log.txt")
    if failed[SHOWN:]:
        log.error("... and %d more failed; the column 'error' of results.csv says why.", len(failed) - SHOWN)
    if failed:
        log.error("%d of %d runs failed. The same command runs them again.", len(failed), len(sweep.jobs))
    return bool(failed)
