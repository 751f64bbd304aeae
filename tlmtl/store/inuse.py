"""Says that a process uses something in the cache, so that `tlmtl cache` leaves it there."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # no such locks: nothing is held, and what is in use is removed when it is asked for
    fcntl = None  # type: ignore[assignment]

_held: dict[Path, Any] = {}


def _mark(path: Path) -> Path:
    return path.with_name(f"{path.name}.used")


def hold(path: Path) -> None:
    """Use `path` until this process ends. Many may at a time. Without a folder that can be written nothing happens."""
    if path in _held or fcntl is None:
        return
    with contextlib.suppress(OSError):
        file = _mark(path).open("a")
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.utime(file.fileno())
        _held[path] = file


def last_used(path: Path) -> float | None:
    """When it was, in seconds since the epoch; None where nobody has said."""
    try:
        return _mark(path).lstat().st_mtime
    except OSError:
        return None


@contextlib.contextmanager
def nobody_uses(path: Path) -> Iterator[bool]:
    """Whether no process does, and none begins to until the end of the block. The mark goes if `path` does."""
    if fcntl is None or not _mark(path).is_file():
        yield True
        return
    with _mark(path).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
        if not path.exists():
            _mark(path).unlink(missing_ok=True)
