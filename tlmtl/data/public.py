"""`dataset=cifar10` and fourteen others: public data sets, by torchvision's own loaders and with their official splits.

torchvision downloads, unpacks and checks the files. CIFAR's are pickles: torchvision reads them, once it has compared
them with the md5 sums that it carries; nothing here unpickles anything. What each data set is called there, and how its
splits are asked for, stands in `public_sets.py`.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from tlmtl.data import known as known_files
from tlmtl.data.examples import Examples
from tlmtl.data.images import ArrayImages, FileImages
from tlmtl.data.public_sets import SETS, PublicSet, calls
from tlmtl.data.scan import readable, scan_items
from tlmtl.errors import ConfigError, nearest

# torchvision's names for the same things. Where it has none of these, items are asked one by one.
LABELS = ("targets", "labels", "_labels", "y", "attr")
FILES = ("_image_files", "_images", "filename", "samples", "_samples")


def public(
    name: str,
    root: str = "data",
    download: bool = False,
    partition: int | None = None,
    on_bad_image: str = "error",
    *,
    cache: Path | None = None,
) -> Examples:
    """Task `label`: the class (for CelebA `attributes`: 40 labels). Splits are the official ones where there are any.

    Arguments:
        name: of torchvision's class, as in `torchvision.datasets`.
        root: the folder where torchvision looks for the data set and downloads it to, each into a folder of its own.
        download: fetch it when it is not there.
        partition: which of DTD's ten official ways to split it, 1 to 10; for DTD alone.
        on_bad_image: "error" names the images that cannot be read; "skip" leaves them out and counts them.

    Raises ConfigError for a data set that is not there, cannot be downloaded or read, or whose splits disagree on the
    classes.
    """
    if name not in SETS:
        raise ConfigError(f"Unknown 'dataset.name={name}'.{nearest(name, list(SETS))} Known: {', '.join(SETS)}.")
    known, top = SETS[name], os.path.expanduser(root)
    _check_partition(name, partition)
    _check_there(name, known, top, download)
    parts = {
        split: _opened(name, known, arguments) for split, arguments in calls(name, top, download, partition).items()
    }
    labels = np.concatenate([_labels(part) for part in parts.values()])
    column = "attributes" if labels.ndim > 1 else "label"
    classes = _classes(name, known, list(parts.values()), labels, top)
    ids = [identity for split, part in parts.items() for identity in _ids(split, part, top)]
    split = np.repeat(list(parts), [len(part) for part in parts.values()])
    place = os.path.join(os.path.abspath(top), known.folder)
    images, good, bad = _images(list(parts.values()), ids, f"{name} {partition} {place}", place, on_bad_image, cache)
    return Examples(
        images=images,
        columns={column: labels[good].astype(np.float32 if labels.ndim > 1 else np.int64)},
        classes={column: classes},
        ids=[ids[i] for i in good],
        split=None if list(parts) == ["all"] else split[good],
        groups=_tracks(ids, split)[good] if known.tracks else None,
        bad=bad,
        notes=_complete(name, known, parts),
    )


def _check_partition(name: str, partition: int | None) -> None:
    if partition is not None and name != "DTD":
        raise ConfigError(
            f"'dataset.partition' is for DTD alone: {name} has one official split. Found {partition}. Leave it out."
        )
    if partition is not None and not 1 <= partition <= 10:
        raise ConfigError(f"'dataset.partition' should be 1 to 10: DTD has ten. Found {partition}.")


def _check_there(name: str, known: PublicSet, top: str, download: bool) -> None:
    """Before torchvision looks: some of its classes make folders where they find none."""
    place = os.path.join(top, known.folder)
    if not download and not os.path.isdir(place):
        what = f"a folder '{known.folder}'" if known.folder else "its files"
        found = "a file" if os.path.exists(place) else "nothing"
        raise ConfigError(
            f"{name} is not there: 'dataset.root={top}' should hold {what}. Found {found} at "
            f"{place}. dataset.download=true fetches it ({known.size}); dataset.root=DIR takes it from elsewhere."
        )


def _opened(name: str, known: PublicSet, arguments: dict[str, Any]) -> Any:
    """torchvision's object for one split."""
    from torchvision import datasets

    place = os.path.join(arguments["root"], known.folder)
    there = os.path.isdir(place)
    again = f"Remove {place} and fetch it again" if known.folder else "Fetch it again"
    try:
        return getattr(datasets, name)(**arguments)
    except Exception as error:  # of sockets, archives, tables, pickles: whatever a file or a network can bring about
        reason = f"{type(error).__name__}: {error}".split(" You can use")[0].strip()
        if arguments["download"]:
            raise ConfigError(
                f"{name} ({known.size}) could not be downloaded to {place} (dataset.download=true): {reason}\n"
                "Is there a network? What was fetched on another machine can be copied there."
                + (f" If an earlier download was broken off, remove {place} first." if there and known.folder else "")
            ) from error
        raise ConfigError(
            f"{name} cannot be read from {place} (dataset.root={arguments['root']}): expected the files as torchvision "
            f"downloads and unpacks them. It says: {reason}\n{again} with dataset.download=true ({known.size}), or set "
            "dataset.root."
        ) from error


def _labels(part: Any) -> np.ndarray:
    """(n,) class numbers, or (n, K) of 0 and 1."""
    for name in LABELS:
        if (found := getattr(part, name, None)) is not None and len(found) == len(part):
            return np.asarray(found)
    if (pairs := getattr(part, "_samples", None)) is not None:
        return np.array([target for _, target in pairs])
    return np.array([np.asarray(part[i][1]) for i in range(len(part))])


def _ids(split: str, part: Any, top: str) -> list[str]:
    """The files' names below `top` where torchvision keeps them; else split and number."""
    for name in FILES:
        found = getattr(part, name, None)
        if isinstance(found, list) and len(found) == len(part):
            paths = [str(one[0] if isinstance(one, tuple) else one) for one in found]
            return [os.path.relpath(path, top) if os.path.isabs(path) or os.sep in path else path for path in paths]
    return [f"{split}/{i}" if split != "all" else str(i) for i in range(len(part))]


def _classes(name: str, known: PublicSet, parts: list[Any], labels: np.ndarray, top: str) -> list[str]:
    """The data set's own names, or numbers where it has none."""
    found = [
        [one for one in (getattr(part, known.classes, None) or []) if one]  # CelebA's table ends in an empty name
        for part in parts
    ]
    if any(names != found[0] for names in found):
        raise ConfigError(
            f"The splits of {name} name different classes ({', '.join(str(len(names)) for names in found)} of them), so "
            f"the files below {os.path.join(top, known.folder)} are not complete. Remove the folder and fetch it again with "
            "dataset.download=true."
        )
    return found[0] or [str(number) for number in range(labels.shape[1] if labels.ndim > 1 else labels.max() + 1)]


def _images(
    parts: list[Any], ids: list[str], key: str, place: str, on_bad_image: str, cache: Path | None
) -> tuple[ArrayImages | FileImages, np.ndarray, list[tuple[str, str]]]:
    """All images, positions of the good ones, and name and reason of the others. `key` and `place` are the cache's."""
    if all(hasattr(part, "data") for part in parts):
        return ArrayImages(np.concatenate([_stacked(part.data) for part in parts])), np.arange(len(ids)), []
    import torchvision

    where = [(part, i) for part in parts for i in range(len(part))]
    key = f"torchvision {torchvision.__version__} {key}"
    facts = scan_items(len(where), lambda i: _image(*where[i]), key, _stamp(place), cache)
    good, bad = readable(facts, ids, on_bad_image)
    kept = [where[i] for i in good.tolist()]
    return FileImages(lambda i: _image(*kept[i]), facts[good]), good, bad


def _stacked(data: Any) -> np.ndarray:
    """torchvision's array of a split, (n, H, W), (n, H, W, 3) or (n, 3, H, W), as (n, C, H, W)."""
    pixels = np.asarray(data)
    if pixels.ndim == 3:
        return pixels[:, None]
    return np.ascontiguousarray(pixels if pixels.shape[1] == 3 else pixels.transpose(0, 3, 1, 2))


def _image(part: Any, i: int) -> Any:
    """One loaded PIL image. Each call opens its file anew, so that threads share nothing."""
    try:
        image = part[i][0]
        image.load()
    except OSError:
        raise
    except Exception as error:  # a broken file can end in anything, deep in a decoder
        raise OSError(f"{type(error).__name__}: {error}") from error
    return image


def _stamp(folder: str) -> int:
    """A hash of names, sizes and times of the files below `folder`."""
    found = [(os.fsencode(path), *known_files.stamp(path)) for path in known_files.below(folder)]
    return int.from_bytes(hashlib.blake2b(repr(found).encode(), digest_size=7).digest(), "big")


def _tracks(ids: list[str], split: np.ndarray) -> np.ndarray:
    """The sign that each image of GTSRB shows: a training file is CLASS/TRACK_FRAME.ppm, a test file stands alone."""
    return np.array([one.rsplit("_", 1)[0] if part == "train" else one for one, part in zip(ids, split, strict=True)])


def _complete(name: str, known: PublicSet, parts: dict[str, Any]) -> list[str]:
    """A note on splits that are not as large as they should be. torchvision takes what it finds in a folder of images."""
    return [
        f"{name} should have {known.sizes[split]:,} images{'' if split == 'all' else f' to {split}'}; found {len(part):,}. "
        "If its download was broken off, remove its folder and fetch it again."
        for split, part in parts.items()
        if len(part) != known.sizes[split]
    ]
