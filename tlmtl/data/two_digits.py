"""`dataset=two_digits`: two scanned digits side by side, so that one image has several honest tasks."""

import numpy as np

from tlmtl.data.digits import NAMES, scans
from tlmtl.data.examples import SPLITS, Examples
from tlmtl.data.images import ArrayImages
from tlmtl.data.splits import cut
from tlmtl.errors import ConfigError


def two_digits(
    train: int = 1000,
    val: int = 300,
    test: int = 500,
    overlap: int = 2,
    val_fraction: float = 0.2,
    test_fraction: float = 0.25,
    *,
    split_seed: int = 0,
) -> Examples:
    """Tasks `left`, `right` (10 classes each) and `sum` (0 to 18).

    The scans are split first and composed within their split, so no scan stands on both sides of a split.

    Arguments:
        train, val, test: pairs in each split, drawn with replacement from the split's scans.
        overlap: columns that the two scans share, 0 to 7; the brighter pixel wins.
    """
    if not 0 <= overlap < 8:
        raise ConfigError(f"'dataset.overlap' should be 0 to 7 columns. Found {overlap}.")
    for name, count in zip(SPLITS, (train, val, test), strict=True):
        if count < 1:  # an empty split would be cut from the training pairs, which share scans
            raise ConfigError(f"'dataset.{name}' should be 1 or more pairs. Found {count}.")
    images, digit = scans()
    for key, share in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not share > 0:  # the scans of the pairs of that split
            raise ConfigError(
                f"'dataset.{key}' should be above 0: a split's pairs are made of its own scans. Found {share}."
            )
    splits = cut(digit, val_fraction, test_fraction, split_seed, names=NAMES)
    random = np.random.default_rng(split_seed)
    pairs = np.concatenate(
        [random.choice(splits[name], (n, 2)) for name, n in zip(SPLITS, (train, val, test), strict=True)]
    )
    canvas = np.zeros((len(pairs), 1, 8, 16 - overlap), np.uint8)
    canvas[:, 0, :, :8] = images[pairs[:, 0]]
    np.maximum(canvas[:, 0, :, -8:], images[pairs[:, 1]], out=canvas[:, 0, :, -8:])
    left, right = digit[pairs[:, 0]], digit[pairs[:, 1]]
    return Examples(
        images=ArrayImages(canvas),
        columns={"left": left, "right": right, "sum": (left + right).astype(np.float64)},
        classes={"left": NAMES, "right": NAMES},
        ids=[f"{a}+{b}" for a, b in pairs],
        split=np.repeat(SPLITS, (train, val, test)),
    )
