"""Every file of a data set is read once: is it a whole image, how large, and which pixels does it hold?

What was found is kept in the cache (`scans/`), by file name, size and times, so that only files that are new or have
changed are read again. Images that a library opens are known by number, and are read again all together.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tlmtl.data import known
from tlmtl.data.decode import decode_fast, opened, pixels
from tlmtl.data.facts import FIELDS, Facts
from tlmtl.data.images import FileImages, hash_pixels, in_threads, luma
from tlmtl.errors import ConfigError, TlmtlError
from tlmtl.progress import counted

ENOUGH = 1024  # pixels along a side, to see what a picture looks like


def scan(paths: Sequence[str], cache: Path | None = None) -> Facts:
    """Read every file once, or take what is known of it from the cache.

    Arguments:
        cache: the folder of cached things; None to read every file now.
    """
    stamps = np.array([known.stamp(path) for path in paths], dtype=np.int64).reshape(-1, 3)
    top = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]) if paths else ""
    facts = _scan(paths, stamps, lambda i: paths[i], known.place(top, cache))
    facts.stamps = stamps
    return facts


def scan_items(count: int, item: Callable[[int], Any], key: str, stamp: int, cache: Path | None = None) -> Facts:
    """Read each of `count` images that a library opens once, or take what is known of all of them from the cache.

    Arguments:
        item: from a number below `count` to a PIL image; called from several threads. An OSError makes a bad image.
        key: names these images and their order.
        stamp: 0 or more; with another one than is kept, all images are read again.
    """
    stamps = np.full((count, 3), stamp, dtype=np.int64)
    return _scan([str(i) for i in range(count)], stamps, lambda i: partial(item, i), known.place(key, cache))


def _scan(names: Sequence[str], stamps: np.ndarray, source: Callable[[int], Any], place: Path | None) -> Facts:
    facts = Facts(*(np.zeros(len(names), kind) for kind in FIELDS.values()))
    facts.mode[:], facts.error[:] = "", ""
    kept = known.recall(place, names, stamps, list(FIELDS))
    for name in FIELDS:
        getattr(facts, name)[kept.index] = kept[name].to_numpy()
    missing = np.setdiff1d(np.arange(len(names)), kept.index).tolist()
    there = np.isin(np.arange(len(names)), kept.index)

    def look(i: int) -> None:
        for name, value in zip(FIELDS, look_at(source(i)), strict=True):
            getattr(facts, name)[i] = value
        there[i] = True

    try:
        with counted(len(missing), "Reading images, once") as tell:
            in_threads(look, missing, tell)
    finally:  # what an interrupted reading found is worth keeping, too
        if missing:
            # bad files are looked at again: a disk or a missing right may have been to blame
            good = np.flatnonzero(there & (facts.error == "") & (stamps[:, 0] >= 0))
            found = pd.DataFrame({name: getattr(facts, name)[good] for name in FIELDS})
            known.keep(place, [names[i] for i in good.tolist()], stamps[good], found)
    return facts


def look_at(source: Any) -> tuple[int, int, int, int, str, str]:
    """The facts of one path, of one PIL image, or of what a function opens."""
    try:
        image = opened(source) if isinstance(source, str | Path) else source() if callable(source) else source
        found = pixels(image)
    except OSError as error:
        return 0, 0, 0, 0, "", str(error) or type(error).__name__
    return hash_pixels(found), perceptual_hash(found), found.shape[1], found.shape[2], image.mode, ""


def perceptual_hash(image: np.ndarray) -> int:
    """64 bits of what an image (C, H, W) looks like: which of its 64 lowest frequencies are above their median.

    Zauner 2010, "Implementation and benchmarking of perceptual image hash functions" (pHash), with an antialiased
    bilinear filter for the reduction to 32x32. What is larger than `ENOUGH` is first reduced to that.
    """
    import torch
    from scipy.fft import dctn
    from torch.nn import functional as F

    pixels = torch.from_numpy(image)[None]
    if max(pixels.shape[-2:]) > ENOUGH:  # as integers: the numbers of a whole scan would take four times its memory
        size = [min(side, ENOUGH) for side in pixels.shape[-2:]]
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    small = F.interpolate(pixels.float(), (32, 32), mode="bilinear", antialias=True)
    grey = luma(small)[0, 0].double().numpy()
    low = dctn(grey)[:8, :8].ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def readable(facts: Facts, names: Sequence[str], on_bad_image: str) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """Positions of the files that are whole images, and name and reason of the others.

    Raises ConfigError naming the others, unless `on_bad_image` is "skip".
    """
    if on_bad_image not in ("error", "skip"):
        raise ConfigError(f"'dataset.on_bad_image' should be error or skip. Found '{on_bad_image}'.")
    good = np.flatnonzero(facts.error == "")
    bad = [(names[i], str(facts.error[i])) for i in np.flatnonzero(facts.error != "").tolist()]
    if bad and on_bad_image == "error":
        named = "\n".join(f"  {name}: {reason}" for name, reason in bad[:5])
        more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise ConfigError(
            f"Expected images, found {len(bad)} of {len(names)} files that cannot be read as such:\n{named}{more}\n"
            "Remove or replace them, or leave them out with dataset.on_bad_image=skip (the row counts them)."
        )
    return good, bad


def images_of(paths: Sequence[str], facts: Facts, where: np.ndarray) -> FileImages:
    """The files at the positions `where`, as images."""
    chosen, known_facts = [paths[i] for i in where.tolist()], facts[where]
    stamps = known_facts.stamps
    return FileImages(
        lambda i: _still_there(opened, chosen[i]),
        known_facts,
        lambda i, channels: _still_there(decode_fast, chosen[i], channels),
        None if stamps is None else lambda i: known.stamp(chosen[i]) == tuple(stamps[i].tolist()),
    )


def _still_there(read: Callable[..., Any], path: str, *more: Any) -> Any:
    """What `read` gives of a file that was whole when the data set was looked at. Raises TlmtlError where it no longer is."""
    try:
        return read(path, *more)
    except OSError as error:
        raise TlmtlError(
            f"An image could no longer be read: {path}: {error}. It was whole when the data set was looked at. Put it back, "
            "then `tlmtl train resume=FOLDER` goes on with the run."
        ) from error
