"""Pictures behind one interface: `len(images)` and `images.read(indices, preprocess)` -> uint8 (n, C, H, W).

What is stored is the original; geometry (resize, crop) happens on reading, because it belongs to the model's
pre-processing and is not known when a data set is found. Values are scaled later, on the batch (`preprocess.py`).
"""

import copy
import hashlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from tlmtl.data.decode import pixels
from tlmtl.data.facts import Facts
from tlmtl.errors import TlmtlError

if TYPE_CHECKING:  # a report looks at images without importing torch
    from torch import Tensor

    from tlmtl.preprocess import Preprocess

T = TypeVar("T")
R = TypeVar("R")


class Images(Protocol):
    channels: int  # 1 (grey) or 3 (RGB)

    @property
    def facts(self) -> Facts | None:
        """What one reading of every file found, where they are files."""
        ...

    def __len__(self) -> int: ...

    def read(self, indices: "Tensor", preprocess: "Preprocess") -> "Tensor":
        """uint8 (n, C, H, W), resized and cropped as `preprocess` says."""
        ...

    def original(self, index: int) -> np.ndarray:
        """uint8 (C, H, W): an image as it is stored."""
        ...

    def as_channels(self, channels: int) -> "Images":
        """The same images read as grey (1) or as RGB (3)."""
        ...

    def hashes(self) -> np.ndarray:
        """int64 (N,): a hash of every image's own pixels, the same wherever the image is stored."""
        ...


class ArrayImages:
    """Images of one shape in memory. `pixels`: uint8 (N, C, H, W)."""

    facts: Facts | None = None

    def __init__(self, pixels: np.ndarray) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            raise ValueError(f"Expected uint8 pixels (N, C, H, W). Found {pixels.dtype} {pixels.shape}.")
        self.array, self.channels = pixels, pixels.shape[1]

    def __len__(self) -> int:
        return len(self.array)

    @cached_property
    def pixels(self) -> "Tensor":
        import torch

        return torch.from_numpy(self.array)

    def original(self, index: int) -> np.ndarray:
        return self.array[index]

    def read(self, indices: "Tensor", preprocess: "Preprocess") -> "Tensor":
        import torch

        from tlmtl.preprocess import fit

        return torch.cat([fit(self.pixels[part], preprocess) for part in indices.split(1024)])

    def as_channels(self, channels: int) -> "ArrayImages":
        if channels == self.channels:
            return self
        if channels == 3:
            return ArrayImages(self.pixels.expand(-1, 3, -1, -1).numpy())
        return ArrayImages(luma(self.pixels).round().byte().numpy())

    def hashes(self) -> np.ndarray:
        return np.array([hash_pixels(image) for image in self.array], dtype=np.int64)


class FileImages:
    """Images that are decoded on reading, by as many threads as there are cores.

    Arguments:
        opened: from a position in `facts` to a loaded PIL image; called from several threads.
        facts: what one reading of every image found. All are readable.
        decoded: from a position and a number of channels to the pixels (C, H, W), where there is a faster way.
        unchanged: whether the image at a position is still the one that was read for `facts`, where that can be told
            without reading it.
    """

    def __init__(
        self,
        opened: Callable[[int], object],
        facts: Facts,
        decoded: Callable[[int, int], np.ndarray] | None = None,
        unchanged: Callable[[int], bool] | None = None,
    ) -> None:
        self.opened, self.unchanged = opened, unchanged
        self.decoded = decoded or (lambda index, channels: pixels(opened(index), channels))
        self.facts: Facts = facts
        self.channels = 3 if facts.colour.any() else 1
        # images of one width and height need not be cropped to be stacked
        self.same_shape = len(facts) > 0 and bool(np.ptp(facts.height) == 0 and np.ptp(facts.width) == 0)

    def __len__(self) -> int:
        return len(self.facts)

    def read(self, indices: "Tensor", preprocess: "Preprocess", as_known: bool = False) -> "Tensor":
        """uint8 (n, C, H, W).

        Arguments:
            as_known: raise TlmtlError for an image that is no longer the one that was found when all were read.
        """
        import torch

        from tlmtl.preprocess import fit

        geometry = self.geometry(preprocess)

        def one(index: int) -> "Tensor":
            found = self.decoded(index, self.channels)
            if as_known and not self._is_known(index, found):
                raise TlmtlError(
                    f"An image has changed since the data set was looked at (number {index} of {len(self)}): the same command "
                    "looks at it again."
                )
            return fit(torch.from_numpy(found)[None], geometry)

        return torch.cat(in_threads(one, indices.tolist()))

    def original(self, index: int) -> np.ndarray:
        return self.decoded(index, self.channels)

    def geometry(self, preprocess: "Preprocess") -> "Preprocess":
        """How its images are brought to one shape."""
        return preprocess if self.same_shape or preprocess.size else preprocess.cropped()

    def _is_known(self, index: int, found: np.ndarray) -> bool:
        if self.unchanged is not None:
            return self.unchanged(index)
        greyed = self.channels == 1 and self.facts.colour[index]  # the hash is that of the colours
        return bool(greyed) or hash_pixels(found) == self.facts.hash[index]

    def as_channels(self, channels: int) -> "FileImages":
        other = copy.copy(self)
        other.channels = channels
        return other

    def hashes(self) -> np.ndarray:
        return self.facts.hash


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="tlmtl-images")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not come along


def in_threads(function: Callable[[T], R], items: Sequence[T], tell: Callable[[], object] = lambda: None) -> list[R]:
    """`[function(item) for item in items]`, by as many threads as there are cores; `tell` is called after each."""
    if len(items) < 2:
        return [function(item) for item in items]
    found: list[R] = []
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(_pool().submit(function, item))
            if len(waiting) > 8 * cores():  # a few each, so that a million items are not a million futures
                found.append(waiting.popleft().result())
                tell()
        while waiting:
            found.append(waiting.popleft().result())
            tell()
    finally:
        for future in waiting:  # after an error or Ctrl-C nobody wants the others any more
            future.cancel()
    return found


def luma(images: "Tensor") -> "Tensor":
    """Grey float (N, 1, H, W) of grey or RGB images (N, C, H, W): ITU-R BT.601, as Pillow has it."""
    import torch

    weights = torch.tensor([0.299, 0.587, 0.114] if images.shape[1] == 3 else [1.0])
    return (images * weights.view(1, -1, 1, 1)).sum(1, keepdim=True)


def hash_pixels(image: np.ndarray) -> int:
    """64 bits of a digest of shape and pixels of (C, H, W). Colour that is grey counts as grey: it is the same picture."""
    if len(image) == 3 and np.array_equal(image[0], image[1]) and np.array_equal(image[1], image[2]):
        image = image[:1]
    digest = hashlib.blake2b(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes(), digest_size=8)
    return int.from_bytes(digest.digest(), "little", signed=True)
