"""K-fold splits and splits that keep groups whole, by scikit-learn's splitters."""

import re
import warnings
from typing import Any

import numpy as np

from tlmtl.errors import ConfigError

SLICES = 20  # a split by groups is made of so many slices, so a share is met to 5 %, where groups are small enough


def parse(fold: str) -> tuple[int, int]:
    """K and N of "K/N". Raises ConfigError for anything else, and for a K outside 1 to N."""
    found = re.fullmatch(r"(\d+)/(\d+)", str(fold))
    if not found:
        raise ConfigError(
            f"'dataset.fold' should be K/N, such as 1/5. Found '{fold}'. All folds of five are a sweep: -m dataset.fold=all/5."
        )
    number, of = int(found[1]), int(found[2])
    if of < 2 or not 1 <= number <= of:
        raise ConfigError(f"'dataset.fold' should be K/N with K from 1 to N, and N 2 or more. Found {fold}.")
    return number, of


def folds(
    labels: np.ndarray | None, groups: np.ndarray | None, n: int, seed: int, names: list[str] | None, size: int
) -> list[np.ndarray]:
    """`n` sets of indices that together hold every example once, stratified by `labels` (N,), with `groups` (N,) whole.

    Raises ConfigError for too few examples of a class or too few groups.
    """
    if groups is not None:
        check_groups(labels, groups, n, names)
    elif labels is not None:
        _check_classes(labels, n, names)
    elif size < n:
        raise ConfigError(f"'dataset.fold' asks for {n} folds of {size} examples. Choose fewer.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class with fewer examples than folds: told above where it matters
        try:
            return [test for _, test in _splitter(labels, groups, n, seed).split(np.zeros(size), labels, groups)]
        except ValueError:  # every class has fewer examples than there are folds: groups alone can be divided
            return [test for _, test in _splitter(None, groups, n, seed).split(np.zeros(size), None, groups)]


def cut_groups(
    labels: np.ndarray | None,
    groups: np.ndarray,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    names: list[str] | None,
) -> dict[str, np.ndarray]:
    """Indices of train, val and test with every group whole; shares are met as well as the groups allow."""
    wanted = 1 + (val_fraction > 0) + (test_fraction > 0)
    count = len(np.unique(groups))
    check_groups(labels if test_fraction else None, groups, wanted, names)  # validation may lack a class
    n = max(wanted, min(SLICES, count))
    slices = folds(None, groups, n, seed, None, len(groups)) if labels is None else _slices(labels, groups, n, seed)
    usual = 2 * len(groups) / len(slices)
    slices = sorted(slices, key=lambda part: len(part) > usual)  # what holds a huge group comes last: to train
    sizes = np.array([len(part) for part in slices])
    n_test = _nearest(sizes[: len(sizes) - wanted + 1], test_fraction * len(groups)) if test_fraction else 0
    n_val = _nearest(sizes[n_test:-1], val_fraction * len(groups)) if val_fraction else 0
    ends = np.cumsum([n_test, n_val])
    parts = dict(zip(("test", "val", "train"), np.split(np.arange(len(slices)), ends), strict=True))
    return {
        split: np.sort(np.concatenate([slices[i] for i in parts[split]] or [np.empty(0, int)]))
        for split in ("train", "val", "test")
    }


def _nearest(sizes: np.ndarray, wanted: float) -> int:
    """How many of the first slices, one at least, hold a number of examples that is nearest to `wanted`."""
    return 1 + int(np.abs(np.cumsum(sizes) - wanted).argmin())


def check_groups(labels: np.ndarray | None, groups: np.ndarray, n: int, names: list[str] | None) -> None:
    """Raises ConfigError for fewer groups than parts, and for a class that lies in one group alone."""
    count = len(np.unique(groups))
    if count < n:
        raise ConfigError(
            f"{count} group(s) cannot be divided into {n} parts without tearing one apart (dataset.group_column). "
            "Add groups, or choose fewer folds where folds were asked for."
        )
    for label in np.unique(labels[labels >= 0]) if labels is not None else []:
        own = np.unique(groups[labels == label])
        if len(own) < 2:
            raise ConfigError(
                f"All examples of class '{names[label] if names else label}' are of one group ('{own[0]}'), so they cannot "
                "be trained on and tested. Add examples of another group, or leave the class out."
            )


def _check_classes(labels: np.ndarray, n: int, names: list[str] | None) -> None:
    for label, count in zip(*np.unique(labels[labels >= 0], return_counts=True), strict=True):
        if count < n:
            raise ConfigError(
                f"Class '{names[label] if names else label}' has {count} example(s), fewer than {n} folds. Choose fewer "
                "folds (dataset.fold=K/N), add examples, or leave the class out."
            )


def _slices(labels: np.ndarray, groups: np.ndarray, n: int, seed: int) -> list[np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            splitter = _splitter(labels, groups, n, seed)
            found = [test for _, test in splitter.split(np.zeros(len(groups)), labels, groups)]
            found = [part for part in found if len(part)]  # it fills slices greedily, and may leave some empty
            return found if len(found) >= 3 else folds(None, groups, n, seed, None, len(groups))
        except ValueError:  # more slices than any class has examples
            return folds(None, groups, n, seed, None, len(groups))


def _splitter(labels: np.ndarray | None, groups: np.ndarray | None, n: int, seed: int) -> Any:
    from sklearn import model_selection as ms

    kind = {
        (True, False): ms.StratifiedKFold,
        (True, True): ms.StratifiedGroupKFold,
        (False, False): ms.KFold,
        (False, True): ms.GroupKFold,
    }[labels is not None, groups is not None]
    return kind(n, shuffle=True, random_state=seed % 2**32)
