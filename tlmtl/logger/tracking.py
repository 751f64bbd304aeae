"""What tells a run's tracker, and keeps a tracker's troubles from the run."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tlmtl import identity
from tlmtl.logger.base import Run, Tracker

log = logging.getLogger("tlmtl")
SLOW = 60.0  # seconds spent in a tracker, beyond which the run's log says so


class Tracking:
    """A context that lasts as long as a run. Silent until `start`; a tracker that raises is told of in the log, once, and left.

    It tells the rows of the history, so that a tracker shows the very numbers of history.csv and a resumed run tells none
    twice.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.told, self.step, self.seconds = path, 0, 0, 0.0
        self.tracker: Tracker | None = None

    def __enter__(self) -> "Tracking":
        return self

    def start(
        self, tracker: Tracker, cfg: DictConfig, run_id: str, step: int, history: Sequence[Sequence[Any]]
    ) -> None:
        """Open `tracker` for the run of `cfg`, which goes on after `step` and whose history up to there is `history`."""
        if type(tracker) is Tracker:
            return
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        settings = {key: value for key, value in config.items() if key not in identity.IGNORED}
        strategy = str(cfg.composed.choices.get("strategy") or "run")
        run = Run(self.path, run_id, identity.group_id(cfg), strategy, settings, step)
        self.tracker, self.step = tracker, step
        has = self._try(partial(tracker.open, run))
        self.told = sum(1 for row in history if row[0] <= (has or 0))
        self.evaluated(history)

    def evaluated(self, history: Sequence[Sequence[Any]]) -> None:
        """Tell the rows (step, epoch, split, task, name, value) that have come since the last time."""
        by_step: dict[int, dict[str, float]] = {}
        for step, epoch, split, task, name, value in history[self.told :]:
            values = by_step.setdefault(step, {"epoch": epoch})
            values["/".join(filter(None, (split, name, task)))] = value
        self.told = len(history)
        for step, values in by_step.items():
            self.step = step
            if self.tracker is not None:
                self._try(partial(self.tracker.log, step, values))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.tracker is not None:
            self._try(partial(self._close, self.tracker, kind is None))
        if self.seconds > SLOW:
            log.info("The tracker took %.0f s of this run.", self.seconds)

    def _close(self, tracker: Tracker, done: bool) -> None:
        tracker.close(done, self.step, _results(self.path / "results.csv") if done else {})

    def _try(self, act: Callable[[], Any]) -> Any:
        began = time.monotonic()
        try:
            return act()
        except Exception as error:
            said = str(error).strip().splitlines() or [""]
            log.warning(
                "The tracker %s failed and is left out from here on, the run goes on: %s: %s",
                type(self.tracker).__name__, type(error).__name__, said[0],
            )  # fmt: skip
            self.tracker = None
        finally:
            self.seconds += time.monotonic() - began


def _results(path: Path) -> Mapping[str, float]:
    """What the rows of a finished run say of the test split, by `test/<metric>/<task>`."""
    import pandas as pd

    found = {}
    for row in pd.read_csv(path).to_dict("records"):
        for name, value in row.items():
            if str(name).startswith("test/") and isinstance(value, int | float) and value == value:
                found[f"{name}/{row['task']}"] = float(value)
    return found
