"""What the stores of a cache hold, and which of it goes first. Torch-free."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tlmtl.store import blocks

ABOUT = "about.json"


@dataclass
class Kept:
    """A store's folder.

    Arguments:
        about: what its rows are, as it says itself; `format` of another version of the program is not read further.
        blocks: by record, bytes and when it was last used (seconds since the epoch).
    """

    folder: Path
    about: dict[str, Any]
    blocks: dict[Path, tuple[int, float]] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        return self.about["format"] == blocks.FORMAT

    @property
    def size(self) -> int:
        return sum(size for size, _ in self.blocks.values())

    @property
    def used(self) -> float:
        return max((used for _, used in self.blocks.values()), default=0.0)


def about(folder: Path) -> dict[str, Any] | None:
    """What a store says of itself; None for a folder that is none."""
    try:
        said = json.loads((folder / ABOUT).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    known = isinstance(said, dict) and {"tlmtl", "format", "kind", "about"} <= set(said)
    return said if known and re.fullmatch("[0-9a-f]{20}", folder.name) else None


def records(folder: Path | None) -> list[Path]:
    """Of the blocks of a store, oldest first."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder)) if folder is not None else []
    except OSError:
        return []
    return [folder / name for name in names if name.endswith(".json") and name != ABOUT and name[0] != "."]  # type: ignore


def stores(root: Path) -> list[Kept]:
    """The stores of a cache. Links are not followed."""
    found = []
    for kind in _folders(root):
        for folder in _folders(kind):
            if (said := about(folder)) is not None:
                found.append(Kept(folder, said, _blocks(folder, said)))
    return found


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _blocks(folder: Path, said: dict[str, Any]) -> dict[Path, tuple[int, float]]:
    """Of another version's store, which is only known as a whole, one entry: its folder."""
    if said["format"] != blocks.FORMAT:
        there = [entry.stat(follow_symlinks=False) for entry in os.scandir(folder)]
        return {folder: (sum(one.st_size for one in there), max(one.st_mtime for one in there))}
    found = {}
    for record in records(folder):
        with contextlib.suppress(OSError):  # it may go at any time
            parts = [record.with_suffix(suffix).lstat() for suffix in (".json", ".npy", ".hashes.npy")]
            found[record] = sum(part.st_size for part in parts), parts[0].st_mtime
    return found


def prune(root: Path, limit: int, spare: Collection[Path] = (), before: float = 0.0) -> list[tuple[Path, int]]:
    """Remove blocks, the least recently used first, until all stores together have at most `limit` bytes.

    Arguments:
        spare: records of blocks that stay in any case.
        before: blocks last used earlier (seconds since the epoch) go even within the limit.

    Returns the records of those removed, with their bytes.
    """
    there = [(used, size, one) for store in stores(root) for one, (size, used) in store.blocks.items()]
    total, gone = sum(size for _, size, _ in there), []
    for used, size, one in sorted(there, key=lambda item: (item[0], str(item[2]))):
        if (total > limit or used < before) and one not in spare and drop(one):
            total -= size
            gone.append((one, size))
    return gone


def drop(one: Path) -> bool:
    """Remove a block by its record, or a store by its folder unless a process makes rows in it. Says whether it is gone."""
    try:
        if one.suffix == ".json":
            blocks.remove(one)
            return True
        with FileLock(one.with_name(f"{one.name}.lock"), timeout=0):
            shutil.rmtree(one)
        return True
    except (OSError, Timeout):
        return False
