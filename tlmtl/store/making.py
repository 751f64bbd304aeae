"""Where rows go while they are made: into memory, into blocks of the store, or, where that cannot be, into a file without a
name."""

import errno
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tlmtl.store.blocks import Block, Writer
from tlmtl.store.held import Held

log = logging.getLogger("tlmtl")
BLOCK = 256 * 2**20  # bytes of rows in one block, and
PATIENCE = 60.0  # seconds that one may take: what a killed process can lose
RESERVE = 512 * 2**20  # bytes that are left free on the disk, for what runs have to write

_told: set[str] = set()


class NotKept(Exception):
    """Rows that were not to be held in memory, nor anywhere but in the store, and that it does not take."""


def once(about: str, message: str) -> None:
    """Say it in the log, once for each process and what it is about."""
    if about not in _told:
        _told.add(about)
        log.warning(message)


class Making:
    """Takes rows as they come.

    Arguments:
        key, folder: of the store; a folder of None keeps nothing.
        spare: folders for a file without a name, where the store's own does not take rows; after the last, memory. None to
            raise NotKept instead.
        hashes: int64 (U,): of what rows are made from. A row is named by its position there, its id.
        count: how many rows will come.
        sources: where rows are; those made are added.
        source, row: (U,): which of them holds each row, and where. Filled for those made.
        memory: where all rows are wanted in memory, those (n, *shape) and the position of each id in it.
    """

    def __init__(
        self,
        key: str,
        folder: Path | None,
        spare: Sequence[Path] | None,
        hashes: np.ndarray,
        count: int,
        sources: list[Held],
        source: np.ndarray,
        row: np.ndarray,
        memory: tuple[np.ndarray, np.ndarray] | None,
    ) -> None:
        self.key, self.hashes, self.left, self.memory = key, hashes, count, memory
        self.sources, self.source, self.row = sources, source, row
        self.blocks: list[Block] = []
        # where rows are written: after an error the next place, and after the last memory. Are they kept there?
        self.places = [] if folder is None else [(folder, True)]
        if memory is None:
            self.places += [(one, False) for one in spare or ()]
        self.must_keep = memory is None and spare is None
        self.writer: Writer | None = None
        self.ids: list[np.ndarray] = []  # in the writer
        self.seconds = 0.0  # that making them took

    def add(self, ids: np.ndarray, rows: np.ndarray, seconds: float) -> None:
        """Rows (k, *shape), contiguous, of these ids (k,), and what making them took."""
        if self.memory is not None:
            target, position = self.memory
            target[position[ids]] = rows
        if not self._write(ids, rows, seconds) and self.memory is None:
            if self.must_keep:
                raise NotKept
            self._place(Held(rows.copy()), ids)
        self.left -= len(ids)

    def _write(self, ids: np.ndarray, rows: np.ndarray, seconds: float) -> bool:
        """To the first place that takes them. False where none does."""
        while self.places:
            place, keep = self.places[0]
            try:
                self.writer = self.writer or self._begin(place, keep, rows)
                self.writer.add(self.hashes[ids], rows)
            except OSError as error:
                self._lose(place, error)
                continue
            self.ids.append(ids)
            self.seconds += seconds
            if keep and (self.writer.size >= BLOCK or time.monotonic() - self.writer.began >= PATIENCE):
                self.end()
            return True
        return False

    def _begin(self, place: Path, keep: bool, rows: np.ndarray) -> Writer:
        wanted = self.left * rows[:1].nbytes
        if shutil.disk_usage(place).free < (min(wanted, BLOCK) if keep else wanted) + RESERVE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        made = Writer(place, rows.shape[1:], rows.dtype)
        if not keep:
            made.temporary.unlink()  # it is there as long as it is open
        return made

    def _lose(self, place: Path, error: OSError) -> None:
        """Leave the place for the next one. What was written there stays readable for this process."""
        if self.places.pop(0)[1]:
            once("cache", f"The cache cannot be written ({place}: {error.strerror or error}). Going on without it.")
        self._close(None)

    def end(self) -> None:
        """Finish what is written now."""
        self._close(self.places[0] if self.places else None)

    def _close(self, place: tuple[Path, bool] | None) -> None:
        """`place`: where the open file is, if it can be kept; None to keep nothing of it."""
        writer, ids, seconds = self.writer, self.ids, self.seconds
        self.writer, self.ids, self.seconds = None, [], 0.0
        if writer is None:
            return
        try:
            if ids and self.memory is None:
                self._place(writer.open(), np.concatenate(ids))
            if ids and place is not None and place[1]:
                self.blocks.append(writer.finish(self.key, seconds))
                return
        except OSError as error:
            if place is None:
                raise
            self._lose(place[0], error)
        except BaseException:
            writer.drop()
            raise
        writer.drop()

    def _place(self, held: Held, ids: np.ndarray) -> None:
        self.sources.append(held)
        self.source[ids], self.row[ids] = len(self.sources) - 1, np.arange(len(ids))
