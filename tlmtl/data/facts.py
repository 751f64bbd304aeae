"""What one reading of every image of a data set found."""

from dataclasses import dataclass
from typing import Any

import numpy as np

FIELDS = {"hash": "int64", "look": "uint64", "height": "int32", "width": "int32", "mode": "object", "error": "object"}


@dataclass
class Facts:
    """What one reading of N files found, aligned with them.

    Arguments:
        hash: int64, of the pixels.
        look: uint64, a perceptual hash: pictures that look alike differ in few bits.
        height, width: pixels, upright.
        mode: Pillow's name of what the file holds (L, RGB, RGBA, P, I;16, ...).
        error: why a file is no whole image; "" for a good one.
        stamps: int64 (N, 3), of the files when they were read (`known.stamp`); None for images that a library opens.
    """

    hash: np.ndarray
    look: np.ndarray
    height: np.ndarray
    width: np.ndarray
    mode: np.ndarray
    error: np.ndarray
    stamps: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.hash)

    def __getitem__(self, where: Any) -> "Facts":
        stamps = None if self.stamps is None else self.stamps[where]
        return Facts(**{name: getattr(self, name)[where] for name in FIELDS}, stamps=stamps)

    @property
    def colour(self) -> np.ndarray:
        """bool (N,): which are not grey."""
        modes = self.mode.astype(str)
        return ~np.isin(modes, ["L", "1", "LA", "La"]) & ~np.char.startswith(modes, "I")
