"""Runs a sweep's jobs, floor(cores / threads) at a time, in children of a fork server (`server.py`).

A child that raises, exits, hangs or is killed costs only its own run. No child outlives the parent, however that ends.
"""

import contextlib
import multiprocessing as mp
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext
from typing import Any

from tlmtl import hardware, job, stopping
from tlmtl.errors import TlmtlError
from tlmtl.results import RunFolder
from tlmtl.sweep import child, fuse, server
from tlmtl.sweep.agree import agree
from tlmtl.sweep.limits import Limits, limits_of
from tlmtl.sweep.plan import Job, Judge, More
from tlmtl.sweep.running import Running
from tlmtl.sweep.show import Board, board

TICK = 0.5  # seconds between looks at clocks and memory
GRACE = 60.0  # seconds in which a run that is told to stop may finish its step and write its checkpoint
STARTS = 3  # how often a process is asked for before the sweep gives up


def run_jobs(jobs: Sequence[Job], judge: Judge | None = None, more: More | None = None) -> None:
    """Run `jobs` and set the state of each. Raises Stopped when a signal ended it, with no child left.

    Arguments:
        more: called with each job that ended; the jobs it returns are run, too.
    """
    shown = list(jobs)  # the table's own list, which grows with `more`
    workers = workers_for(shown)
    server.start()
    agree(shown)
    alone = judge is not None or more is not None  # what a search draws next depends on each run
    units = [[item] for item in shown] if alone else fuse.units(shown, workers, limits_of(shown[0].cfg))
    with stopping.watching() as stop, stop.patiently(quiet=True), board(shown, shown[0].cfg.progress, workers) as live:
        _Pool(shown, units, workers, live, judge, more, stop).run()


def workers_for(jobs: list[Job]) -> int:
    cores = hardware.threads_of("auto", None)
    wanted = jobs[0].cfg.hardware.workers
    return max(1, min(len(jobs), wanted or cores // max(item.threads for item in jobs)))


class _Pool:
    """The jobs that wait, those that run, and what is done when one of them ends or a signal comes."""

    def __init__(
        self,
        jobs: list[Job],
        units: list[list[Job]],
        workers: int,
        shown: Board,
        judge: Judge | None,
        more: More | None,
        stop: stopping.Stop,
    ) -> None:
        self.jobs, self.workers, self.shown, self.judge, self.more, self.stop = jobs, workers, shown, judge, more, stop
        self.limits: Limits = limits_of(jobs[0].cfg)
        self.context: ForkServerContext = mp.get_context("forkserver")
        self.waiting, self.running = units, list[Running]()
        self.tries: dict[str, int] = {}
        self.stopping = False

    def run(self) -> None:
        try:
            while self.running or (self.waiting and self.stop.asked is None):
                while self.waiting and len(self.running) < self.workers and self.stop.asked is None:
                    self._start(self.waiting.pop(0))
                self._listen()
                if self.stop.asked is not None and not self.stopping:
                    self._tell_to_stop(self.stop.asked)
                for one in self.running:
                    one.watch(self.limits, GRACE)
                for one in [one for one in self.running if not one.alive()]:
                    self.running.remove(one)
                    self._ended(one)
                self.shown.tick()
        finally:  # nothing runs unless something went wrong here, or Ctrl-C came a second time
            for one in self.running:
                one.kill()
            for one in self.running:
                one.process.join(5)
                for item in one.items:
                    item.state = "interrupted"
        if error := self.stop.error(self._rest()):
            raise error

    def _rest(self) -> str:
        done = sum(item.state == "done" for item in self.jobs)
        begun = sum(item.state == "interrupted" and item.has_checkpoint for item in self.jobs)
        return f"with {done} of {len(self.jobs)} runs done, {begun} to be gone on with"

    def _start(self, unit: list[Job]) -> None:
        for item in unit:
            item.state, item.note, item.unit, item.together = "running", "", unit[0].key, len(unit)
            self.shown.started(item)
        ours, theirs = self.context.Pipe()
        work = [(item.cfg, str(item.folder), item.run_id, item.ids) for item in unit]
        arguments = (work, theirs, self.judge is not None)
        for left in reversed(range(STARTS)):
            process = self.context.Process(target=child.main, args=arguments, daemon=False)
            try:
                with server.own_modules():
                    process.start()
                break
            except (OSError, EOFError) as error:  # the fork server died: asked again, Python starts another
                if not left:
                    raise TlmtlError(
                        f"No process could be started for the run {unit[0].label}: {type(error).__name__} {error}. Are there "
                        "enough memory, processes (ulimit -u) and open files (ulimit -n)? The same command goes on."
                    ) from error
                time.sleep(1)
        theirs.close()
        for item in unit:
            self.tries[item.key] = self.tries.get(item.key, 0) + 1
        self.running.append(Running(unit, process, ours, [RunFolder(item.folder).record for item in unit]))

    def _listen(self) -> None:
        """Wait a moment for a message or an end, and take all messages there are."""
        pipes: dict[Any, Running] = {one.pipe: one for one in self.running if not one.pipe.closed}
        ready = wait([*pipes, *(one.process.sentinel for one in self.running if not one.orphan)], timeout=TICK)
        for pipe in ready:
            if pipe in pipes:
                self._hear(pipes[pipe])

    def _hear(self, one: Running) -> None:
        try:
            while one.pipe.poll():
                kind, number, *said = one.pipe.recv()
                item = one.items[number]
                if kind == "moved":
                    self.shown.moved(item, *said)
                elif kind == "score":
                    one.pipe.send(not self.stopping and self.judge is not None and bool(self.judge(item, *said)))
                else:
                    one.hear(kind, number, said)
        except (EOFError, OSError):
            one.pipe.close()

    def _tell_to_stop(self, number: int) -> None:
        self.stopping = True
        for one in self.running:
            one.tell(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM, GRACE)
        if self.running:
            count = sum(len(one.items) for one in self.running)
            runs = "1 run" if count == 1 else f"{count} runs"
            how = "" if any(len(one.items) > 1 for one in self.running) else "writing checkpoints of "
            self.shown.said(f"Stopping: {how}{runs}; Ctrl-C again stops now.")

    def _ended(self, one: Running) -> None:
        """Set the jobs' states from what their process said, or from how it ended; try again what may be worth it."""
        if not one.pipe.closed:
            self._hear(one)
        one.pipe.close()
        one.process.join()
        for number in range(len(one.items)):
            self._settle(one, number)
        apart = [item for item in one.items if item.state == "waiting" and item.together > 1]
        if apart:
            self.shown.said(f"{len(apart)} run(s) that were trained together are run alone: {apart[0].note}")
            for item in apart:
                item.note, item.unit, item.together, self.tries[item.key] = "", "", 1, 0
            self.waiting[:0] = [[item] for item in apart]

    def _settle(self, one: Running, number: int) -> None:
        item, tries = one.items[number], self.tries[one.items[number].key]
        item.state, item.note, again = one.outcome(number, self.stop.asked is not None)
        if item.state == "apart":
            item.state = "waiting"
            return
        if item.state == "failed" and again and tries <= self.limits.retries and not self.stopping:
            self.shown.said(f"{item.label}: {item.note}; trying again ({tries + 1} of {self.limits.retries + 1})")
            item.state, item.together = "waiting", 1
            self.waiting.insert(0, [item])
            return
        if item.state == "failed":
            with contextlib.suppress(OSError, TlmtlError):
                if RunFolder(item.folder).record.get("error") != item.note:  # the process could not say it any more
                    job.mark_failed(item.cfg, item.folder, item.run_id, item.note)
        if tries > 1:
            item.note = f"{item.note} (after {tries} tries)".strip()
        self.shown.ended(item, (time.monotonic() - one.began) / len(one.items))
        if self.more is not None and not self.stopping:
            new = self.more(item)
            self.waiting += [[one] for one in new]
            self.jobs += new
