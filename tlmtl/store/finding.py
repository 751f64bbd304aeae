"""Which of the rows that are wanted a store has."""

import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tlmtl.store import blocks, kept
from tlmtl.store.blocks import Block, Broken
from tlmtl.store.held import Held
from tlmtl.store.making import once

log = logging.getLogger("tlmtl")


@dataclass
class Here:
    """Where the rows of U ids are: which source (-1 for none yet), and where in it."""

    source: np.ndarray  # int64 (U,)
    row: np.ndarray  # int64 (U,)
    sources: list[Held] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def missing(self) -> np.ndarray:
        return np.flatnonzero(self.source < 0)


def find(folder: Path | None, key: str, wanted: np.ndarray) -> Here:
    """Where the rows of the hashes `wanted` (U,), ascending, are, as far as they are kept and whole.

    What is broken is told and removed.
    """
    there = [block for record in kept.records(folder) if (block := _whole(blocks.read, record, key)) is not None]
    there = [block for block in there if (block.shape, block.dtype) == (there[0].shape, there[0].dtype)]
    while True:
        here = Here(np.full(len(wanted), -1), np.zeros(len(wanted), np.int64))
        for block in there:
            at = np.searchsorted(wanted, block.hashes).clip(max=len(wanted) - 1)
            rows = np.flatnonzero((wanted[at] == block.hashes) & (here.source[at] < 0))
            if len(rows):
                here.source[at[rows]], here.row[at[rows]] = len(here.blocks), rows
                here.seconds += block.seconds * len(rows) / len(block.hashes)
                here.blocks.append(block)
        with ThreadPoolExecutor(4) as pool:
            opened = list(pool.map(lambda block: _whole(_open, block), here.blocks))
        lost = [block for block, held in zip(here.blocks, opened, strict=True) if held is None]
        if not lost:
            here.sources = opened
            for block in here.blocks:
                block.used()
            return here
        there = [block for block in there if block not in lost]


def _whole(read: Callable, what: Path | Block, *more: str) -> Any:
    """What `read` gives of a record or block; None where it is broken, and then it is removed."""
    try:
        return read(what, *more)
    except Broken as error:
        record = what.record if isinstance(what, Block) else what
        if record.exists():  # else another process has removed it just now
            log.warning("A block of the cache is broken and made again: %s (%s)", record.parent, error)
        with contextlib.suppress(OSError):
            blocks.remove(record)
    except OSError as error:
        once("reading", f"The cache cannot be read: {error}. Going on without it.")
    return None


def _open(block: Block) -> Held:
    held = block.open()
    blocks.verify(block)
    return held
