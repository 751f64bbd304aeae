"""The store: rows by the hash of what each was made from, made once for all processes and runs.

    <output.cache>/<kind>/<key>/about.json      what the rows are
                               /NAME.npy, NAME.hashes.npy, NAME.json      a block (blocks.py)
    <output.cache>/<kind>/<key>.lock            held while rows are made; reading needs none

A folder is one way of making rows: its key is a hash of `about` and of the format, so that nothing in it is ever out of date.
"""

import contextlib
import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

import tlmtl
from tlmtl import files
from tlmtl.progress import counted
from tlmtl.store import blocks, kept
from tlmtl.store.finding import Here, find
from tlmtl.store.held import Gathered, Rows, in_use
from tlmtl.store.making import Making, NotKept, once

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Found", "NotKept", "Rows", "Store"]
log = logging.getLogger("tlmtl")
Make = Callable[[np.ndarray], Iterator[Any]]


@dataclass
class Found:
    """What `Store.fetch` found or made.

    Arguments:
        seconds: what making all of these rows took, whenever that was.
        made: how many were made now.
    """

    rows: Rows
    seconds: float
    made: int


class OfAnotherForm(Exception):
    """Rows that were made differ in shape or type from those that are kept."""


class Store:
    """Rows of one kind, made in one way.

    Arguments:
        root: the cache's folder (`output.cache`); None to keep nothing.
        kind: the folder in it: "features" or "images".
        about: what decides a row beside what it is made from, as JSON has it.
        limit_mb: when a store has grown, all below `root` together are brought below so many MB; None for no limit. Rows that
            are more by themselves are not kept.
    """

    def __init__(self, root: Path | None, kind: str, about: Mapping[str, Any], limit_mb: int | None) -> None:
        said = json.dumps({"format": blocks.FORMAT, "kind": kind, "about": about}, sort_keys=True)
        self.kind, self.about = kind, about
        self.key = hashlib.sha256(said.encode()).hexdigest()[:20]
        self.limit = None if limit_mb is None else limit_mb * 2**20
        self.root = None if limit_mb == 0 else root
        self.folder = None if self.root is None else self.root / kind / self.key

    def fetch(self, hashes: np.ndarray, make: Make, in_memory: int, label: str = "", only_kept: bool = False) -> Found:
        """The rows of what has these hashes, in that order. Those that are not kept are made, and kept.

        Two processes that ask at once make a row once: the second waits. What cannot be kept (a folder that cannot be
        written, a full disk) costs time alone.

        Arguments:
            hashes: int64 (n,), n > 0. The same hash twice is the same row.
            make: from positions (m,) in `hashes`, ascending, to their rows: arrays (k, *shape), or tensors on the CPU,
                whose lengths sum to m.
            in_memory: up to so many bytes, the rows are one tensor; more are read from files as they are used.
            label: what is made, for a progress bar and the log.
            only_kept: raise NotKept where rows that are more than `in_memory` cannot be kept. Otherwise they are held in a
                file without a name, or even in memory.
        """
        wanted, first, inverse = np.unique(np.asarray(hashes, np.int64), return_index=True, return_inverse=True)
        if not len(wanted):
            raise ValueError("expected one row or more, found none")
        asked = _Asked(wanted, first, inverse, make, in_memory, label, only_kept)
        here = find(self.folder, self.key, wanted)
        if not len(here.missing):
            return asked.found(here, None, 0)
        with self._alone(label or self.kind) as folder:
            try:
                return self._fill(asked, folder)
            except OfAnotherForm:
                log.warning("What is kept in %s has another form than what is made now: it is made again.", folder)
                for record in kept.records(folder) if folder else ():
                    blocks.remove(record)
                return self._fill(asked, folder)

    def _fill(self, asked: "_Asked", folder: Path | None) -> Found:
        """Make what is missing, with the store's lock held (if there is a folder)."""
        here = find(self.folder, self.key, asked.wanted)  # again: another process may have made rows meanwhile
        missing = here.missing[np.argsort(asked.first[here.missing])]
        if not len(missing):
            return asked.found(here, None, 0)
        target: np.ndarray | None = None
        making: Making | None = None
        done = 0
        try:
            with counted(len(missing), asked.label or f"Making {self.kind}") as tell:
                for rows, seconds in _timed(asked.make(asked.first[missing])):
                    if making is None:
                        if here.sources and not here.sources[0].has_form(rows):
                            raise OfAnotherForm
                        size = len(asked.inverse) * rows[:1].nbytes
                        target = asked.tensor(rows) if size <= asked.in_memory else None
                        making = Making(
                            self.key,
                            None if self._too_large(len(asked.wanted) * rows[:1].nbytes) else folder,
                            None if asked.only_kept else self._spare(folder),
                            asked.wanted,
                            len(missing),
                            here.sources,
                            here.source,
                            here.row,
                            None if target is None else (target, asked.first),
                        )
                    ids = missing[done : done + len(rows)]
                    if len(ids) < len(rows):
                        raise ValueError(f"expected {len(missing)} rows to be made, found more")
                    making.add(ids, rows, seconds)
                    here.seconds, done = here.seconds + seconds, done + len(rows)
                    tell(len(rows))
        finally:  # what was made before an error or Ctrl-C is worth keeping, too
            if making is not None:
                making.end()
        if making is None or done < len(missing):
            raise ValueError(f"expected {len(missing)} rows to be made, found {done}")
        here.blocks += making.blocks
        if making.blocks and self.root is not None and self.limit is not None:
            kept.prune(self.root, self.limit, in_use() | {block.record for block in here.blocks})
        return asked.found(here, target, done)

    def _too_large(self, size: int) -> bool:
        if self.limit is None or size <= self.limit:
            return False
        once(
            f"large {self.kind}",
            f"These {self.kind} take {size / 2**20:,.0f} MB, more than may be kept (output.cache_mb={self.limit >> 20}): "
            "they are made again by every run.",
        )
        return True

    def _spare(self, folder: Path | None) -> list[Path]:
        """Where rows may be while this process runs, if they are not kept."""
        own = [] if folder is None or self.root is None else [self.root]
        return [*own, Path(tempfile.gettempdir())]

    @contextlib.contextmanager
    def _alone(self, label: str) -> Iterator[Path | None]:
        """The store's folder, while no other process makes rows in it; None where it cannot be written."""
        lock = None
        folder = self.folder
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                lock = FileLock(folder.with_name(f"{self.key}.lock"))
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    log.info("%s: another process makes the same; waiting for it.", label)
                    lock.acquire()
                self._tidy(folder)
        except OSError as error:
            once("cache", f"The cache cannot be written ({folder}: {error.strerror or error}). Going on without it.")
            folder = None
        try:
            yield folder
        finally:
            if lock is not None and lock.is_locked:
                lock.release()

    def _tidy(self, folder: Path) -> None:
        """Leave nothing of processes that died; say what the rows are."""
        folder.mkdir(parents=True, exist_ok=True)  # it may have been cleared while this process waited
        for path in blocks.leftovers(folder):
            path.unlink(missing_ok=True)
        said = {"tlmtl": tlmtl.__version__, "format": blocks.FORMAT, "kind": self.kind, "about": self.about}
        if kept.about(folder) is None:
            files.write_text(folder / kept.ABOUT, json.dumps(said, indent=1, sort_keys=True))


def _timed(made: Iterator[Any]) -> Iterator[tuple[np.ndarray, float]]:
    """Every piece as a contiguous array, with the seconds that making it took."""
    while True:
        began = time.perf_counter()
        piece = next(made, None)
        if piece is None:
            return
        if len(piece):
            yield np.ascontiguousarray(piece), time.perf_counter() - began


@dataclass
class _Asked:
    """What was asked for. An id is a position in `wanted`.

    Arguments:
        wanted: int64 (U,): hashes, each once.
        first: (U,): where each is first asked for.
        inverse: (n,): the id of each position.
    """

    wanted: np.ndarray
    first: np.ndarray
    inverse: np.ndarray
    make: Make
    in_memory: int
    label: str
    only_kept: bool

    def tensor(self, like: np.ndarray) -> np.ndarray:
        return np.empty((len(self.inverse), *like.shape[1:]), like.dtype)

    def found(self, here: Here, target: np.ndarray | None, made: int) -> Found:
        """The rows, all of which are there now: in `target` those that were made, else where `here` says."""
        import torch

        held: Tensor | Gathered
        count = len(self.inverse)
        if target is None and here.sources:
            like = here.sources[0].array[:1]
            if count * like.nbytes <= self.in_memory:
                target = self.tensor(like)
        if target is None:
            records = {block.record for block in here.blocks}
            held = Gathered(here.sources, here.source[self.inverse], here.row[self.inverse], records)
            return Found(Rows(count, held.shape, held), here.seconds, made)
        if here.sources:
            ids = np.flatnonzero(here.source >= 0)
            gathered = Gathered(here.sources, here.source[ids], here.row[ids])
            gathered.take(np.arange(len(ids)), target, self.first[ids])
        twice = np.flatnonzero(self.first[self.inverse] != np.arange(count))
        for at in np.array_split(twice, max(1, len(twice) // 1024)):
            target[at] = target[self.first[self.inverse[at]]]
        return Found(Rows(count, target.shape[1:], torch.from_numpy(target)), here.seconds, made)
