"""How a run shows that it is alive: a bar on a terminal, plain lines elsewhere, messages to the parent in a sweep."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any, Protocol

from tlmtl.errors import Pruned

Metrics = Mapping[str, Mapping[str, float]]  # of validation, by task and name


class Progress(Protocol):
    """What a run says of itself; `scores` are what epochs are chosen by (higher is better), by branch."""

    def start(self, total: int, done: int) -> None: ...

    def step(self, step: int, losses: Mapping[str, float]) -> None: ...

    def evaluated(self, step: int, metrics: Metrics, scores: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Silent:
    def start(self, total: int, done: int) -> None: ...

    def step(self, step: int, losses: Mapping[str, float]) -> None: ...

    def evaluated(self, step: int, metrics: Metrics, scores: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Bar:
    """A rich progress bar: loss, the first validation metric of each task, time left."""

    def __init__(self, label: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.label = label
        self.bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}{task.fields[metric]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            transient=True,
        )
        self.shown = 0.0

    def start(self, total: int, done: int) -> None:
        self.task = self.bar.add_task(self.label, total=total, completed=done, loss="", metric="")
        self.bar.start()

    def step(self, step: int, losses: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now - self.shown > 0.1:  # often enough for eyes, seldom enough to cost nothing
            self.shown = now
            self.bar.update(self.task, completed=step, loss=f"loss {sum(losses.values()):.3f}")

    def evaluated(self, step: int, metrics: Metrics, scores: Mapping[str, float]) -> None:
        self.bar.update(self.task, completed=step, metric=f"  val {summary(metrics)}")

    def close(self) -> None:
        self.bar.stop()


class Lines:
    """A plain line now and then, for logs and pipes."""

    def __init__(self, label: str, every: float = 5.0) -> None:
        self.label, self.every, self.told, self.total = label, every, time.monotonic(), 0
        self.losses: Mapping[str, float] = {}

    def start(self, total: int, done: int) -> None:
        self.total = total

    def step(self, step: int, losses: Mapping[str, float]) -> None:
        self.losses = losses
        if time.monotonic() - self.told > 6 * self.every:
            self._print(step, "")

    def evaluated(self, step: int, metrics: Metrics, scores: Mapping[str, float]) -> None:
        if time.monotonic() - self.told > self.every or step == self.total:
            self._print(step, f", val {summary(metrics)}")

    def _print(self, step: int, more: str) -> None:
        self.told = time.monotonic()
        print(f"{self.label}: step {step}/{self.total}, loss {sum(self.losses.values()):.3f}{more}", file=sys.stderr)

    def close(self) -> None: ...


class Messages:
    """Tells a parent process, at most a few times a second, where the run is: ("moved", step, total, what validation says).

    With `answer`, each validation's score is sent too, ("score", step, mean over branches), and the parent's word is waited
    for: true ends the run there.
    """

    def __init__(self, send: Callable[[Any], None], answer: Callable[[], bool] | None = None) -> None:
        self.send, self.answer, self.total, self.metric, self.told = send, answer, 0, "", 0.0

    def start(self, total: int, done: int) -> None:
        self.total = total
        self._tell(done)

    def step(self, step: int, losses: Mapping[str, float]) -> None:
        if time.monotonic() - self.told > 0.25:
            self._tell(step)

    def evaluated(self, step: int, metrics: Metrics, scores: Mapping[str, float]) -> None:
        self.metric = summary(metrics)
        self._tell(step)
        if self.answer is not None and scores:
            self.send(("score", step, sum(scores.values()) / len(scores)))
            if self.answer():
                raise Pruned(f"Pruned at step {step} of {self.total}: other runs of the search were better by then.")

    def _tell(self, step: int) -> None:
        self.told = time.monotonic()
        self.send(("moved", step, self.total, self.metric))

    def close(self) -> None: ...


def summary(metrics: Metrics) -> str:
    """`accuracy 0.912` for one task, `left 0.912, right 0.905` for several: the first metric of each, the loss aside."""
    measured = {task: [(n, v) for n, v in m.items() if n != "loss"] for task, m in metrics.items()}
    shown = {task: found[0] for task, found in measured.items() if found}  # a task without a label here has none
    if len(shown) == 1:
        return " ".join(f"{name} {value:.3f}" for name, value in shown.values())
    return ", ".join(f"{task} {value:.3f}" for task, (_, value) in shown.items())


def choose(wanted: bool, label: str) -> Progress:
    """What fits where standard error goes."""
    if not wanted:
        return Silent()
    return Bar(label) if sys.stderr.isatty() else Lines(label)


@contextmanager
def counted(total: int, label: str, patience: float = 1.0) -> Iterator[Callable[..., None]]:
    """Gives a function to be called after each of `total` things, or after several with their number.

    What lasts longer than `patience` seconds is shown on standard error: a bar on a terminal, a line every half a minute
    elsewhere.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    parts = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    bar, began, done, told = None, time.monotonic(), 0, time.monotonic()

    def tell(number: int = 1) -> None:
        nonlocal bar, done, told
        done, now = done + number, time.monotonic()
        if now - began < patience or parent_process() is not None:  # a sweep's own table is on the screen
            return
        if sys.stderr.isatty():
            if bar is None:
                bar = RichProgress(*parts, console=Console(stderr=True), transient=True)
                bar.add_task(label, total=total)
                bar.start()
            if now - told > 0.1 or done == total:
                told = now
                bar.update(bar.task_ids[0], completed=done)
        elif now - told > 30:
            told = now
            print(f"{label}: {done} of {total}", file=sys.stderr)

    try:
        yield tell
    finally:
        if bar is not None:
            bar.stop()
