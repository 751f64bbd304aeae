"""Rows that are there: in mapped files, or in memory as one tensor."""

import contextlib
import errno
import math
import mmap
import weakref
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

# Bytes of mapped files that may be in memory before they are given back, as they are counted here: a row, and what the system
# brings along with it. That may be more: with large pages in its cache forty times as much was seen.
RESIDENT = 4 * 2**20
AROUND = 64 * 2**10


class Held:
    """Rows (n, *shape), mapped from a file (which stays readable when its name is removed) or in memory."""

    def __init__(self, array: np.ndarray, map: mmap.mmap | None = None) -> None:
        self.array, self._map = array, map

    @classmethod
    def mapped(cls, file: int, offset: int, rows: int, shape: tuple[int, ...], dtype: np.dtype) -> "Held":
        """Of an open file, from `offset` on. Raises OSError or ValueError where that cannot be."""
        try:
            map = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            more_files()  # each map holds one
            map = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
        return cls(np.frombuffer(map, dtype, rows * math.prod(shape), offset).reshape(rows, *shape), map)

    def has_form(self, rows: np.ndarray) -> bool:
        """Whether `rows` (m, ...) are of the same shape and type."""
        return self.array.shape[1:] == rows.shape[1:] and self.array.dtype == rows.dtype

    def release(self) -> None:
        """Pages that were read are no longer counted as this process's memory; they are read again when wanted."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def more_files() -> None:
    """As many open files as this process may have."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


_living: "weakref.WeakSet[Gathered]" = weakref.WeakSet()


def in_use() -> set[Path]:
    """The records of blocks that this process reads rows from."""
    return {record for one in list(_living) for record in one.records}


class Gathered:
    """n rows that lie scattered over several `Held`.

    Arguments:
        sources: of one shape and type.
        source, row: (n,): which of them holds each row, and where.
        records: of the blocks that they come from.
    """

    def __init__(
        self, sources: Sequence[Held], source: np.ndarray, row: np.ndarray, records: Collection[Path] = ()
    ) -> None:
        self.sources, self.source, self.row, self.records = sources, source, row, records
        self.shape = tuple(sources[0].array.shape[1:])
        self.row_bytes = sources[0].array[:1].nbytes
        self._touched: set[int] = set()
        self._resident = 0
        _living.add(self)

    def take(self, indices: np.ndarray, out: np.ndarray, to: np.ndarray | None = None) -> None:
        """Rows at `indices` (m,) into `out`, at the positions `to` (m,) or one after another; read in the order in which they
        lie."""
        source, row = self.source[indices], self.row[indices]
        order = np.lexsort((row, source))
        numbers, starts = np.unique(source[order], return_index=True)
        for number, at in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            array = self.sources[number].array
            for piece in np.split(at, range(0, len(at), max(1, RESIDENT // (self.row_bytes + AROUND)))[1:]):
                out[piece if to is None else to[piece]] = array[row[piece]]
                self._count(number, len(piece))

    def _count(self, number: int, rows: int) -> None:
        self._touched.add(number)
        self._resident += rows * (self.row_bytes + AROUND)
        if self._resident > RESIDENT:
            touched, self._touched, self._resident = list(self._touched), set(), 0
            for one in touched:
                self.sources[one].release()


class Rows:
    """Rows by position: `rows[indices]`, int64 (m,), is a tensor (m, *shape).

    `tensor` holds all of them (n, *shape) where they are in memory; it is None where they are read from files.
    """

    def __init__(self, count: int, shape: tuple[int, ...], held: "Tensor | Gathered") -> None:
        self.shape, self._count = shape, count
        self._gathered = held if isinstance(held, Gathered) else None
        self.tensor: Tensor | None = None if isinstance(held, Gathered) else held

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, indices: "Tensor") -> "Tensor":
        if self.tensor is not None:
            return self.tensor[indices]
        import torch

        assert self._gathered is not None
        at = indices.numpy()
        out = np.empty((len(at), *self.shape), self._gathered.sources[0].array.dtype)
        self._gathered.take(at, out)
        return torch.from_numpy(out)
