"""A run at work in a child process, as its parent sees it: alive or not, within its limits or not, and how it ended."""

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
LOST = 255  # the exit code that multiprocessing makes up when the fork server is gone


class Running:
    """One try of one job.

    Arguments:
        record: what the run's folder said before this try.
    """

    def __init__(self, item: Job, process: Any, pipe: Connection, record: dict[str, Any]) -> None:
        self.item, self.process, self.pipe, self.record = item, process, pipe, record
        self.began = time.monotonic()
        self.heard = False  # whether the process said that it began
        self.imports = 0  # bytes of memory that it had then
        self.end: tuple[str, str, bool] | None = None  # state, why, whether another try may help
        self.limit = ""  # the limit that it was ended for
        self.kill_at = math.inf
        with contextlib.suppress(psutil.Error):
            self.system = psutil.Process(process.pid)

    def hear(self, kind: str, said: list[Any]) -> None:
        if kind == "began":
            self.began, self.heard, self.imports = time.monotonic(), True, said[0]
        elif kind == "ended":
            state, why, again = said
            self.end = (state, why, again)

    @property
    def orphan(self) -> bool:
        """Whether the fork server died, so that nobody will say how the process ended; it works on all the same."""
        return self.process.exitcode == LOST

    def alive(self) -> bool:
        if self.process.is_alive():
            return True
        if self.process.exitcode != LOST or self.end is not None:
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
        """Hold the run to its limits. What takes too long may write a checkpoint, what takes too much memory may not."""
        now = time.monotonic()
        if now > self.kill_at:
            self.kill()
        if self.limit or self.end is not None:
            if self.end is not None:  # the run is over, but the process does not end
                self.kill_at = min(self.kill_at, now + grace)
            return
        late = now - self.began - (0 if self.heard else START)
        if limits.seconds is not None and late > limits.seconds:
            self.limit = f"took longer than sweep.time_limit={self.item.cfg.sweep.time_limit}"
            self.tell(signal.SIGTERM, grace)
        elif limits.megabytes is not None and self.heard and (used := self.megabytes()) > limits.megabytes:
            self.limit = (
                f"used {used:.0f} MB of memory, more than sweep.memory_limit_mb={limits.megabytes} (resident memory beyond "
                "what importing the program takes)"
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

    def outcome(self, stopping: bool) -> tuple[str, str, bool]:
        """State, why, and whether another try may help, once the process has ended."""
        record = RunFolder(self.item.folder).record
        if record.get("status") == "done" and record != self.record:
            return "done", "", False
        if self.limit:
            return "failed", self.limit, False
        if self.end is not None and (self.end[0] != "interrupted" or stopping):
            return self.end
        if self.end is not None:
            return "failed", self.end[1] or "stopped by a signal from elsewhere", True
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
