"""A unit of work in a child process, one run or several, as its parent sees it: alive or not, within its limits or not, and
how it ended."""

import contextlib
import math
import os
import signal
import time
from multiprocessing.connection import Connection
from typing import Any

import psutil

from tlmtl.results import RunFolder
from tlmtl.sweep.limits import Limits
from tlmtl.sweep.plan import Job

START = 120.0  # seconds that a process may take to say that it has begun, before its time is counted all the same
LONG = 0.2  # seconds for which a run must hold more than its limit: a program that it starts has its memory for a moment, too
LOST = 255  # the exit code that multiprocessing makes up when the fork server is gone


class Running:
    """One try of a unit of jobs.

    Arguments:
        records: what the runs' folders said before this try.
    """

    def __init__(self, items: list[Job], process: Any, pipe: Connection, records: list[dict[str, Any]]) -> None:
        self.items, self.process, self.pipe, self.records = items, process, pipe, records
        self.began = time.monotonic()
        self.heard = False  # whether the process said that it began
        self.imports = 0  # bytes of memory that it had then
        self.ends: dict[int, tuple[str, str, bool]] = {}  # by number: state, why, whether another try may help
        self.apart = ""  # why its runs could not be trained together
        self.much = math.inf  # since when it has held too much memory
        self.limit = ""  # the limit that it was ended for
        self.kill_at = math.inf
        with contextlib.suppress(psutil.Error):
            self.system = psutil.Process(process.pid)

    @property
    def over(self) -> bool:
        """Whether the process has told the end of all its runs."""
        return len(self.ends) == len(self.items) or bool(self.apart)

    def hear(self, kind: str, number: int, said: list[Any]) -> None:
        if kind == "began":
            self.began, self.heard, self.imports = time.monotonic(), True, said[0]
        elif kind == "ended":
            state, why, again = said
            self.ends[number] = (state, why, again)
        elif kind == "apart":
            self.apart = said[0]

    @property
    def orphan(self) -> bool:
        """Whether the fork server died, so that nobody will say how the process ended; it works on all the same."""
        return self.process.exitcode == LOST

    def alive(self) -> bool:
        if self.process.is_alive():
            return True
        if self.process.exitcode != LOST or self.over:
            return False
        with contextlib.suppress(psutil.Error, AttributeError):
            return self.system.is_running() and self.system.status() != psutil.STATUS_ZOMBIE
        return False

    def tell(self, number: int, grace: float) -> None:
        """Send a signal to the run's own process, which then has `grace` seconds."""
        self.kill_at = min(self.kill_at, time.monotonic() + grace)
        with contextlib.suppress(OSError, TypeError):
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """End the process and whatever it started."""
        if not self.alive():
            return
        with contextlib.suppress(OSError, TypeError):
            os.kill(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(OSError, TypeError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it made a session of its own, so its children are in it

    def watch(self, limits: Limits, grace: float) -> None:
        """Hold the unit to the limits of one run. What takes too long may write a checkpoint, what takes too much memory may
        not; several runs that are trained together are run alone then."""
        now = time.monotonic()
        if now > self.kill_at:
            self.kill()
        if self.limit or self.over:
            if self.over:  # the run is over, but the process does not end
                self.kill_at = min(self.kill_at, now + grace)
            return
        late = now - self.began - (0 if self.heard else START)
        if limits.seconds is not None and late > limits.seconds:
            self.limit = f"took longer than sweep.time_limit={self.items[0].cfg.sweep.time_limit}"
            self.tell(signal.SIGTERM, grace)
        elif limits.megabytes is not None and self.heard:
            used = self.megabytes()
            self.much = min(self.much, now) if used > limits.megabytes else math.inf
            if now - self.much >= LONG:
                self.limit = (
                    f"used {used:.0f} MB of memory, more than sweep.memory_limit_mb={limits.megabytes} (resident memory "
                    "beyond what importing the program takes)"
                )
                self.kill()

    def megabytes(self) -> float:
        """Resident memory of the process and its children, beyond what it had when it began."""
        found = 0
        with contextlib.suppress(psutil.Error, AttributeError):
            for one in (self.system, *self.system.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    found += one.memory_info().rss
        return max(0, found - self.imports) / 2**20

    def outcome(self, number: int, stopping: bool) -> tuple[str, str, bool]:
        """State, why, and whether another try may help, of one of the runs once the process has ended. The state `apart` is
        that of a run which is to be run alone."""
        record = RunFolder(self.items[number].folder).record
        if record.get("status") == "done" and record != self.records[number]:
            return "done", "", False
        end = self.ends.get(number)
        if len(self.items) > 1:
            if end and end[0] == "failed":
                return end
            if stopping:
                return "interrupted", "", False
            return "apart", self.limit or self.apart or _how(self.process.exitcode, self.heard), False
        if self.limit:
            return "failed", self.limit, False
        if end is not None and (end[0] != "interrupted" or stopping):
            return end
        if end is not None:
            return "failed", end[1] or "stopped by a signal from elsewhere", True
        if stopping:
            return "interrupted", "", False
        return "failed", _how(self.process.exitcode, self.heard), True


def _how(code: int | None, heard: bool) -> str:
    if code == LOST:
        return "the process ended, and so did the one that could say how"
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        hint = " (by hand, or by the system when memory ran out)" if name == "SIGKILL" else ""
        return f"the process ended by {name}{hint}"
    return f"the process {'ended' if heard else 'could not begin: it ended'} by exit code {code}"
