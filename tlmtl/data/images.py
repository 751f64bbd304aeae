"""Pictures behind one interface: `len(images)` and `images.read(indices, preprocess)` -> uint8 (n, C, H, W).

What is stored is the original; geometry (resize, crop) happens on reading, because it belongs to the model's
pre-processing and is not known when a data set is found. Values are scaled later, on the batch (`preprocess.py`).
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from tlmtl.errors import ConfigError
from tlmtl.preprocess import Preprocess, fit

T = TypeVar("T")
R = TypeVar("R")


class Images(Protocol):
    channels: int  # 1 (grey) or 3 (RGB)

    def __len__(self) -> int: ...

    def read(self, indices: Tensor, preprocess: Preprocess) -> Tensor:
        """uint8 (n, C, H, W), resized and cropped as `preprocess` says."""
        ...

    def hashes(self) -> np.ndarray:
        """int64 (N,): a hash of every image's own pixels, the same wherever the image is stored."""
        ...

    def bytes_in_memory(self, preprocess: Preprocess) -> int: ...


class ArrayImages:
    """Images of one shape in memory. `pixels`: uint8 (N, C, H, W)."""

    def __init__(self, pixels: np.ndarray) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 4:
            raise ValueError(f"Expected uint8 pixels (N, C, H, W). Found {pixels.dtype} {pixels.shape}.")
        self.pixels, self.channels = torch.from_numpy(pixels), pixels.shape[1]

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Tensor, preprocess: Preprocess) -> Tensor:
        return torch.cat([fit(self.pixels[part], preprocess) for part in indices.split(1024)])

    def hashes(self) -> np.ndarray:
        return np.array([_hash(image) for image in self.pixels.numpy()], dtype=np.int64)

    def bytes_in_memory(self, preprocess: Preprocess) -> int:
        return len(self) * self.read(torch.tensor([0]), preprocess).numel()


class FileImages:
    """Image files, decoded on reading by as many threads as there are cores (Pillow releases the GIL).

    Arguments:
        paths: the files, all readable.
        channels: 1 to read all as grey, 3 as RGB.
        same_shape: whether all files have one width and height, so that nothing need be cropped to stack them.
        found: hashes (N,) of the decoded pixels, when the caller has read every file already.
    """

    def __init__(self, paths: Sequence[Path], channels: int, same_shape: bool, found: np.ndarray) -> None:
        self.paths, self.channels, self.same_shape, self._hashes = list(paths), channels, same_shape, found

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: Tensor, preprocess: Preprocess) -> Tensor:
        geometry = preprocess if self.same_shape else preprocess.cropped()

        def one(index: int) -> Tensor:
            return fit(torch.from_numpy(decode(self.paths[index], self.channels))[None], geometry)

        return torch.cat(in_threads(one, indices.tolist()))

    def hashes(self) -> np.ndarray:
        return self._hashes

    def bytes_in_memory(self, preprocess: Preprocess) -> int:
        return len(self) * self.read(torch.tensor([0]), preprocess).numel()


def decode(path: Path, channels: int | None = None) -> np.ndarray:
    """The file as uint8 (C, H, W), upright (EXIF), 16-bit grey scaled to 8 bits, transparency over white.

    `channels` is 1, 3, or None for what the file holds. Raises OSError or ValueError for what is no whole image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            image.load()
    except (Image.DecompressionBombError, SyntaxError) as error:
        raise OSError(str(error)) from error
    if image.mode.startswith("I"):  # 16 and 32 bits hold 16-bit scans
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        grey = opened.mode in ("LA", "L", "1")
    else:
        grey = image.mode in ("L", "1", "F")
    wanted = channels or (1 if grey else 3)
    array = np.array(image.convert("L" if wanted == 1 else "RGB"))
    return array[None] if wanted == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def scan(paths: Sequence[Path], on_bad_image: str) -> tuple[list[int], FileImages]:
    """Read every file once: which are whole images (their positions in `paths`), and those as `FileImages`.

    Raises ConfigError naming the files that are not, unless `on_bad_image` is "skip".
    """

    def one(path: Path) -> tuple[int, tuple[int, ...]] | str:
        try:
            pixels = decode(path)
        except (OSError, ValueError) as error:
            return str(error).replace(str(path), path.name)
        return _hash(pixels), pixels.shape

    results = in_threads(one, list(paths))
    bad = [(path, result) for path, result in zip(paths, results, strict=True) if isinstance(result, str)]
    if bad and on_bad_image == "error":
        named = "\n".join(f"  {path}: {reason}" for path, reason in bad[:5])
        more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ConfigError(
            f"Expected images, found {len(bad)} of {len(paths)} files that cannot be read as such:\n{named}{more}\n"
            "Remove or replace them, or leave them out with dataset.on_bad_image=skip (the row counts them)."
        )
    good = [(i, result) for i, result in enumerate(results) if not isinstance(result, str)]
    shapes = [result[1] for _, result in good]
    images = FileImages(
        [paths[i] for i, _ in good],
        channels=max((shape[0] for shape in shapes), default=1),
        same_shape=len({shape[1:] for shape in shapes}) == 1,
        found=np.array([result[0] for _, result in good], dtype=np.int64),
    )
    return [i for i, _ in good], images


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`[function(item) for item in items]`, by as many threads as there are cores."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(function, items))


def _hash(image: np.ndarray) -> int:
    """64 bits of a digest of shape and pixels."""
    digest = hashlib.blake2b(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes(), digest_size=8)
    return int.from_bytes(digest.digest(), "little", signed=True)
