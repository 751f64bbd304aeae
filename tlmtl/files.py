"""Files that are whole or not there: everything is written to a temporary name in the same folder and renamed."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tlmtl.errors import ConfigError, TlmtlError

# What torch and safetensors say when a file cannot be written.
FULL_DISK = ("No space left", "os error 28", "PytorchStreamWriter", "file write failed", "inline_container")


class DiskError(TlmtlError):
    """The disk is full or a file cannot be written; what was there before is still there."""


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a temporary file beside `path`, then rename it: a kill leaves the old file or the new one."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        fill(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.truncate(
                temporary, 0
            )  # a writer that failed may hold the file open: its space is wanted now, for the status
            temporary.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def link(path: Path, target: Path) -> None:
    """Make the link `path` point at `target` (a neighbour), in one step. Where links are not to be had, do without."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(os.path.relpath(target, path.parent))
        temporary.replace(path)


def make_folder(path: Path, key: str) -> Path:
    """The folder, made if need be. Raises ConfigError naming the config key when it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ConfigError(
            f"'{key}' should be a folder that can be written. {path}: {error.strerror or error}."
        ) from error
    return path


def cache_folder(setting: str | None) -> Path:
    """Where what is worth keeping is kept: `output.cache`, $TLMTL_CACHE, or the user's cache folder."""
    if setting:
        return Path(setting).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TLMTL_CACHE") or f"{base}/tlmtl").expanduser()


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn a full or broken disk into a message."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO, errno.EFBIG):
            raise DiskError(f"Could not write {error.filename or 'a file'}: {error.strerror}.") from error
        raise
    except RuntimeError as error:  # torch and safetensors wrap the system's error in their own
        if any(word in str(error) for word in FULL_DISK):
            first = str(error).splitlines()[0]
            raise DiskError(f"Could not write a checkpoint or model. No space left on the device? ({first})") from error
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
