"""How long a sweep will still take: from runs that ended, and from the steps of those that are running."""

import time
from collections.abc import Sequence

from tlmtl.sweep.plan import Job, expected

ENOUGH = 0.05  # the share of its steps after which a run's own pace says more than other runs do


def clock(seconds: float) -> str:
    """`0:07`, `5:20`, `1:05:20`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class TimeLeft:
    """Told what runs do, answers how long all of them together still need."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.took: dict[str, list[float]] = {}  # by group: seconds of runs that were finished
        self.first: dict[str, tuple[float, int]] = {}  # by key: when a running one was first heard of, at which step
        self.at: dict[str, tuple[int, int]] = {}  # by key: step and total

    def moved(self, item: Job, step: int, total: int) -> None:
        self.first.setdefault(item.key, (time.monotonic(), step))
        self.at[item.key] = (step, total)

    def ended(self, item: Job, seconds: float) -> None:
        first = self.first.pop(item.key, None)
        self.at.pop(item.key, None)
        if item.state == "done" and (first is None or first[1] == 0):  # a run that went on took less than a whole one
            self.took.setdefault(item.group, []).append(seconds)

    def left(self, jobs: Sequence[Job]) -> float | None:
        """Seconds until the last of `jobs` has ended; None when nothing is known yet."""
        running = [item for item in jobs if item.state == "running"]
        projected = {item.key: self._pace(item) for item in running}
        known = [(item, *found) for item in running if (found := projected[item.key]) is not None]
        whole = [sum(took) / len(took) for took in self.took.values()]
        whole = whole or [(ran + rest) / item.together for item, ran, rest in known]
        if not whole:
            return None
        usual = sum(whole) / len(whole)
        rests: dict[str, float] = {}  # by unit: its runs end together
        for item in running:
            ran, rest = projected[item.key] or (0.0, None)
            rest = rest if rest is not None else max(0.0, self._usual(item, usual) * item.together - ran)
            rests[item.unit or item.key] = max(rest, rests.get(item.unit or item.key, 0.0))
        waiting = sum(self._usual(item, usual) for item in jobs if item.state == "waiting")
        waiting += usual * (expected(jobs) - len(jobs))
        return max([(sum(rests.values()) + waiting) / self.workers, *rests.values()])

    def _usual(self, item: Job, otherwise: float) -> float:
        took = self.took.get(item.group)
        return sum(took) / len(took) if took else otherwise

    def _pace(self, item: Job) -> tuple[float, float] | None:
        """Seconds that a running run has run and has to go, from its own steps."""
        if item.key not in self.first:
            return None
        (began, first), (step, total) = self.first[item.key], self.at[item.key]
        ran = time.monotonic() - began
        if step - first < max(1, ENOUGH * (total - first)):
            return None
        return ran, ran / (step - first) * (total - step)
