"""What a tracker is: told about a run as it trains. `tracking.py` tells it; nothing here imports a tracker's library."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tlmtl.errors import ConfigError


@dataclass(frozen=True)
class Run:
    """What a tracker is told of a run before its first number."""

    folder: Path
    name: str  # the run's id
    group: str  # the same for the repeats of one experiment
    strategy: str
    config: dict[str, Any]  # what can change the result
    step: int  # the step after which it goes on; 0 at the start


class Tracker:
    """Takes a run's numbers somewhere. The default takes them nowhere.

    Made when a run's config is checked, so the constructor refuses what cannot be had (`ConfigError`) and starts nothing.
    What is raised later costs the run a line in its log, no more.
    """

    def open(self, run: Run) -> int:
        """Begin, or go on with, the log of `run`. Returns the step up to which the log holds all: 0 to be told the history
        of a resumed run again."""
        return run.step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name (`val/accuracy/digit`) after `step`. Steps only go up."""

    def close(self, done: bool, step: int, results: Mapping[str, float]) -> None:
        """The end; with what the test split said (`test/accuracy/digit`) when the run is `done`."""


def no_tracker() -> Tracker:
    """Only the files in the run's folder."""
    return Tracker()


def needs(package: str, choice: str) -> None:
    """Raises ConfigError unless `package` is installed. It is not imported."""
    if find_spec(package) is None:
        raise ConfigError(
            f"logger={choice} needs the package '{package}', which is not installed: pip install 'tlmtl[loggers]', or "
            "leave the logger out."
        )
