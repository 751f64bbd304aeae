"""A block: rows in one `.npy` file, the hashes of what they were made from in another, and a record of both.

The record (`NAME.json`) is written last and removed first, so that a block without one does not exist. A block is never
changed: it is written once, and removed. Nothing of what is read here is executed.
"""

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import tlmtl
from tlmtl import files
from tlmtl.store.held import Held

FORMAT = 1  # of the files; a store of another format is another store
PIECE = 2**20  # bytes read at a time
# Errors that say nothing about the file: this process has too little of something, or may not read.
NOT_ITS_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EACCES, errno.EPERM)


class Broken(Exception):
    """A block that cannot be used, and why."""


@contextlib.contextmanager
def _broken(name: str) -> Iterator[None]:
    """Turn what a wrong, truncated or unreadable file raises into Broken. An OSError that is not its fault goes through."""
    try:
        yield
    except OSError as error:
        if error.errno in NOT_ITS_FAULT:
            raise
        raise Broken(f"{name}: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Broken(f"{name} is not what was written ({type(error).__name__}: {error})") from error


@dataclass(frozen=True, eq=False)
class Block:
    """Rows (n, *shape) that are kept in `record`'s neighbours.

    Arguments:
        hashes: int64 (n,), of what each row was made from.
        seconds: what making them took.
        sha256: of the file of rows, and of that of hashes.
    """

    record: Path
    hashes: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype
    seconds: float
    sha256: tuple[str, str]

    @property
    def path(self) -> Path:
        return self.record.with_suffix(".npy")

    def head(self) -> bytes:
        return npy_head((len(self.hashes), *self.shape), self.dtype)

    def open(self) -> Held:
        """The rows, mapped. Raises Broken where they are gone."""
        with _broken(self.path.name), self.path.open("rb") as file:
            return Held.mapped(file.fileno(), len(self.head()), len(self.hashes), self.shape, self.dtype)

    def used(self) -> None:
        """Says that the block was wanted just now."""
        with contextlib.suppress(OSError):
            os.utime(self.record)


def npy_head(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """How an `.npy` file of this shape begins. Its length does not depend on the number of rows."""
    made = io.BytesIO()
    described: dict[str, Any] = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(made, described)
    return made.getvalue()


def read(record: Path, key: str) -> Block:
    """The block of a record, if it is of the store `key` and its files look as they should. Raises Broken.

    Rows are not read: `verify` does that.
    """
    with _broken(record.name):
        said = json.loads(record.read_bytes())
        if said.pop("check") != _check(said):
            raise ValueError("its checksum differs")
        count, shape, dtype = said["rows"], tuple(said["shape"]), np.dtype(said["dtype"])
        sums = (str(said["sha256"]), str(said["hashes_sha256"]))
        sound = [isinstance(n, int) and n > 0 for n in (count, *shape)]
        if said["format"] != FORMAT or said["key"] != key or not all(sound) or dtype.kind not in "iuf":
            raise ValueError("not a block of this store")
        with record.with_suffix(".hashes.npy").open("rb") as file:
            hashes = np.lib.format.read_array(file, allow_pickle=False)
        if hashes.dtype != np.int64 or hashes.shape != (count,):
            raise ValueError("not as many hashes as rows")
        block = Block(record, hashes, shape, dtype, float(said["seconds"]), sums)
        head = block.head()
        with block.path.open("rb") as file:
            if file.read(len(head)) != head:
                raise ValueError("its rows are not what its record says")
            if file.seek(0, os.SEEK_END) != len(head) + count * math.prod(shape) * dtype.itemsize:
                raise ValueError("its file of rows is not as long as it should be")
        return block
    raise AssertionError  # unreachable: for the type checker


_verified: set[tuple] = set()  # by this process: name and stamp of files


def verify(block: Block, again: bool = False) -> None:
    """Raises Broken where the block's bytes are not those that were written. A file is read once for each process.

    Arguments:
        again: read it in any case.
    """
    for path, written in zip((block.path, block.record.with_suffix(".hashes.npy")), block.sha256, strict=True):
        with _broken(path.name):
            there = path.stat()
            stamp = (str(path), there.st_ino, there.st_size, there.st_mtime_ns, written)
            if again or stamp not in _verified:
                if digest(path) != written:
                    raise ValueError("its checksum differs")
                _verified.add(stamp)


def _check(said: dict[str, Any]) -> str:
    """A checksum of a record, of all but itself."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def digest(path: Path) -> str:
    found, buffer = hashlib.sha256(), bytearray(PIECE)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            found.update(memoryview(buffer)[:count])
    return found.hexdigest()


def remove(record: Path) -> None:
    """Take a block away, its record first. What has it mapped goes on reading it. Raises OSError where it may not go."""
    for path in (record, record.with_suffix(".hashes.npy"), record.with_suffix(".npy")):
        path.unlink(missing_ok=True)


def leftovers(folder: Path) -> list[Path]:
    """Files of blocks that were never finished. Whoever holds the store's lock may remove them."""
    there = {entry.name for entry in os.scandir(folder)}
    rows = [name for name in there if name.endswith(".npy")]
    orphans = [name for name in rows if f"{name.removesuffix('.npy').removesuffix('.hashes')}.json" not in there]
    return [folder / name for name in (*orphans, *(name for name in there if name.startswith(".")))]


class Writer:
    """A block that grows: rows go to a file as they come. Every method raises OSError where the disk does not take them."""

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        name = f"{time.time_ns():x}-{os.getpid()}"
        self.record, self.shape, self.dtype = folder / f"{name}.json", shape, dtype
        self.temporary = folder / f".{name}.npy"
        self.hashes: list[np.ndarray] = []
        self.rows, self.began = 0, time.monotonic()
        self.file = self.temporary.open("xb+", buffering=0)
        try:
            self.offset = self.file.write(self._head())
        except BaseException:
            self.drop()
            raise

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes of rows so far."""
        return self.rows * self.row_bytes

    def _head(self) -> bytes:
        return npy_head((self.rows, *self.shape), self.dtype)

    def add(self, hashes: np.ndarray, rows: np.ndarray) -> None:
        """Rows (n, *shape), contiguous. After an OSError the block holds what it held before."""
        left = rows.reshape(-1).view(np.uint8).data
        while left:
            left = left[self.file.write(left) :]
        self.hashes.append(hashes)
        self.rows += len(rows)

    def trim(self) -> None:
        """Cut off what a write that failed has left behind the last whole row, and say in the head how many there are."""
        self.file.truncate(self.offset + self.size)
        self.file.seek(0)
        self.file.write(self._head())

    def open(self) -> Held:
        """The rows so far, mapped. They stay readable after `drop`."""
        return Held.mapped(self.file.fileno(), self.offset, self.rows, self.shape, self.dtype)

    def finish(self, key: str, seconds: float) -> Block:
        """Make it a block of the store `key`. `seconds`: what making its rows took."""
        self.trim()
        self.file.close()
        hashes = np.concatenate(self.hashes)
        names = [self.record.with_suffix(suffix) for suffix in (".npy", ".hashes.npy")]
        self.temporary.replace(names[0])
        files.write(names[1], lambda temporary: _save(temporary, hashes))
        sums = (digest(names[0]), digest(names[1]))
        said = {
            "format": FORMAT,
            "key": key,
            "rows": self.rows,
            "shape": list(self.shape),
            "dtype": self.dtype.str,
            "sha256": sums[0],
            "hashes_sha256": sums[1],
            "seconds": round(seconds, 3),
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "tlmtl": tlmtl.__version__,
        }
        files.write_text(self.record, json.dumps({**said, "check": _check(said)}, indent=1))
        return Block(self.record, hashes, self.shape, self.dtype, seconds, sums)

    def drop(self) -> None:
        """Leave nothing of it."""
        with contextlib.suppress(OSError):
            self.file.close()
        for path in (self.temporary, self.record.with_suffix(".hashes.npy"), self.record.with_suffix(".npy")):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _save(path: Path, hashes: np.ndarray) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array(file, hashes, allow_pickle=False)
