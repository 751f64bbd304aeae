"""What can go wrong by a user's doing, as one exception per exit code. The front door prints the message alone."""

from importlib.util import find_spec
from pathlib import Path

INSTALL = {"sklearn": "scikit-learn"}  # packages that are installed by another name


class TlmtlError(Exception):
    """Something a user can cause: shown without a traceback (`--debug` shows it)."""

    exit_code = 1


class ConfigError(TlmtlError):
    """A wrong command, config, path or data set, found before anything was started."""

    exit_code = 2


class TrainingError(TlmtlError):
    """A run that cannot go on, such as a loss that is no longer finite."""


class Pruned(TlmtlError):
    """A run of a search that was ended early by its judge; it did not fail."""

    exit_code = 0


class Stopped(TlmtlError):
    """A run that was asked to stop, and goes on when the same command is given again."""


class Interrupted(Stopped):
    """Ctrl-C."""

    exit_code = 130


class Preempted(Stopped):
    """Another signal, which a scheduler sends when a job has to leave. `signal` is its number."""

    exit_code = 75

    def __init__(self, message: str, number: int = 15) -> None:
        super().__init__(message)
        self.signal = number


def folder_of_package(package: str, needed_by: str) -> Path:
    """The folder of an installed package, which is not imported. Raises ConfigError where it is not installed."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"{needed_by} needs the package '{package}', which is not installed: pip install {INSTALL.get(package, package)}."
        )
    return Path(spec.origin).parent


def nearest(word: str, known: list[str]) -> str:
    """` Did you mean 'x'?`, or nothing when no known word is close."""
    import difflib

    lower = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), list(lower), n=1, cutoff=0.6)
    return f" Did you mean '{lower[found[0]]}'?" if found else ""
