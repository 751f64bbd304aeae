"""Decoded and resized images, kept in the cache: they are made once for all epochs, runs and processes."""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tlmtl.data.images import FileImages, Images
from tlmtl.preprocess import Preprocess
from tlmtl.store.rows import NotKept, Rows, Store

CODE = 1  # the version of how images are decoded and resized here: another one does so anew
READ_AT_ONCE = 256  # images
# What decoding takes, about, on two cores, and what reading back what was kept does. Less than a second is not worth a file.
PER_FILE, PER_PIXEL, PER_BYTE, WORTH_IT = 0.4e-3, 1.2e-8, 1 / 300e6, 1.0  # seconds


@dataclass(frozen=True)
class Decoded:
    """Where decoded images are kept.

    Arguments:
        cache: the folder of everything that is kept.
        limit_mb: how much of that may be features and images; None for no limit.
    """

    cache: Path
    limit_mb: int | None

    def of(self, images: Images, shape: tuple[int, ...], preprocess: Preprocess, used: np.ndarray) -> "Resized | None":
        """Images resized to `shape` (C, H, W); None where keeping those at `used` (n,) would not pay."""
        size = int(np.prod(shape)) * len(used)
        if not isinstance(images, FileImages) or (self.limit_mb is not None and size > self.limit_mb * 2**20):
            return None
        pixels = float((images.facts.height[used].astype(float) * images.facts.width[used]).sum())
        seconds = len(used) * PER_FILE + pixels * PER_PIXEL
        if seconds < WORTH_IT or seconds < size * PER_BYTE:
            return None
        store = Store(self.cache, "images", _about(images, shape, preprocess), self.limit_mb)
        return Resized(store, images, preprocess)


@dataclass(frozen=True)
class Resized:
    """Images as a model takes them, decoded when they are wanted for the first time."""

    store: Store
    images: FileImages
    preprocess: Preprocess

    def rows(self, where: np.ndarray, in_memory: bool) -> Rows | None:
        """uint8 (n, C, H, W), those at `where` (n,), n > 0; None where they can be held neither in memory nor in the cache."""
        hashes = self.images.hashes()[where]

        def make(positions: np.ndarray) -> Iterator[np.ndarray]:
            for at in np.split(positions, range(READ_AT_ONCE, len(positions), READ_AT_ONCE)):
                yield self.images.read(torch.from_numpy(where[at]), self.preprocess, as_known=True).numpy()

        try:
            return self.store.fetch(
                hashes, make, sys.maxsize if in_memory else 0, "Reading images", only_kept=True
            ).rows
        except NotKept:
            return None


def _about(images: FileImages, shape: tuple[int, ...], preprocess: Preprocess) -> dict[str, Any]:
    """All that a resized image depends on, beside the pixels of the original."""
    import PIL
    import torchvision

    geometry = {
        name: value for name, value in asdict(images.geometry(preprocess)).items() if name not in ("mean", "std")
    }
    return {
        "code": CODE,
        "shape": list(shape),
        **geometry,
        "pillow": PIL.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),  # resizing rounds by it
    }
