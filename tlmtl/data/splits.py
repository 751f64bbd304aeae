"""Which example is in which split. Fixed by the data and `dataset.split_seed`, never by a run's seed."""

import numpy as np

from tlmtl.data import duplicates, folds
from tlmtl.data.examples import SPLITS, Examples
from tlmtl.errors import ConfigError


def divide_copies(
    examples: Examples, val_fraction: float, test_fraction: float, seed: int, fold: str | None, on_duplicate: str
) -> dict[str, np.ndarray]:
    """`divide`, with exact copies of one image on one side where `on_duplicate` is "together".

    Splits that the data have are left as they are: whether copies stand on two sides of them is told by `duplicates.report`.
    """

    def cut(examples: Examples, groups: np.ndarray | None) -> dict[str, np.ndarray]:
        return divide(examples, val_fraction, test_fraction, seed, fold, groups)

    if on_duplicate != "together" or examples.split is not None:
        return cut(examples, examples.groups)
    if examples.groups is not None:
        return cut(examples, duplicates.together(examples.hashes, examples.groups))
    return duplicates.with_copies(examples, lambda unique: cut(unique, None))


def divide(
    examples: Examples,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    fold: str | None = None,
    groups: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Indices of train, val and test: the data's own splits where it has them; what is missing is cut from train.

    Arguments:
        val_fraction, test_fraction: shares of the whole, each in [0, 1).
        fold: "K/N": of N folds, the K-th is the test split; validation is cut from the others.
        groups: (N,) what may not stand on both sides of a split.

    Raises ConfigError for an empty split, a class or a number of groups too small to stand in every split, and a fold of
    data that has its own test split.
    """
    own = {name: np.flatnonzero(examples.split == name) for name in SPLITS} if examples.split is not None else None
    if fold is not None:
        if own is not None and len(own["test"]) + len(own["val"]):
            raise ConfigError(
                f"'dataset.fold={fold}' divides all examples, but this data set has splits of its own. Leave out "
                "dataset.fold, or the data's own splits (dataset.split=null for a table)."
            )
        splits = _folded(examples, groups, val_fraction, seed, fold)
    elif own is None:
        splits = _cut(examples, groups, np.arange(len(examples.ids)), val_fraction, test_fraction, seed)
    else:
        if groups is not None:
            _check_apart(groups, own)
        fractions = 0 if len(own["val"]) else val_fraction, 0 if len(own["test"]) else test_fraction
        parts = _cut(examples, groups, own["train"], *fractions, seed)
        splits = {name: parts[name] if name == "train" or not len(own[name]) else own[name] for name in SPLITS}
    for name in SPLITS:
        if not len(splits[name]):
            raise ConfigError(f"The {name} split is empty: raise 'dataset.{name}_fraction', or add examples.")
    return splits


def _labels(examples: Examples) -> tuple[np.ndarray | None, list[str] | None]:
    """What splits are stratified by: the class numbers (N,) of the first column that has classes, and their names."""
    anchor = examples.anchor
    return (examples.columns[anchor], examples.classes[anchor]) if anchor else (None, None)


def _cut(
    examples: Examples,
    groups: np.ndarray | None,
    where: np.ndarray,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> dict[str, np.ndarray]:
    """The examples at `where` in three parts, of which those with a fraction of 0 are empty."""
    check_fractions(val_fraction, test_fraction)
    labels, names = _labels(examples)
    mine = None if labels is None else labels[where]
    if not val_fraction and not test_fraction:
        parts = {"train": np.arange(len(where)), "val": np.empty(0, int), "test": np.empty(0, int)}
    elif groups is None:
        parts = cut(mine, val_fraction, test_fraction, seed, len(where), names)
    else:
        parts = folds.cut_groups(mine, groups[where], val_fraction, test_fraction, seed, names)
    return {name: where[part] for name, part in parts.items()}


def _folded(
    examples: Examples, groups: np.ndarray | None, val_fraction: float, seed: int, fold: str
) -> dict[str, np.ndarray]:
    number, of = folds.parse(fold)
    labels, names = _labels(examples)
    size = len(examples.ids)
    test = folds.folds(labels, groups, of, seed, names, size)[number - 1]
    rest = np.setdiff1d(np.arange(size), test)
    if not 0 < val_fraction < 1 - 1 / of:
        raise ConfigError(
            f"'dataset.val_fraction' should leave some to train on beside a fold of 1/{of}. Found {val_fraction}."
        )
    return {**_cut(examples, groups, rest, val_fraction * size / len(rest), 0, seed), "test": test}


def _check_apart(groups: np.ndarray, own: dict[str, np.ndarray]) -> None:
    """Raises ConfigError when the data's own splits tear a group apart."""
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        if both := sorted(map(str, set(groups[own[one]].tolist()) & set(groups[own[other]].tolist()))):
            raise ConfigError(
                f"{len(both)} group(s) stand in {one} and in {other}, such as {', '.join(both[:3])}. Mend the split column, "
                "or have the splits cut (dataset.split=null)."
            )


def check_fractions(val_fraction: float, test_fraction: float) -> None:
    for key, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1:
            raise ConfigError(
                f"'dataset.{key}' should be a share of the data that leaves some to train on. Found {value}."
            )
    if val_fraction + test_fraction >= 1:
        raise ConfigError(
            "'dataset.val_fraction' and 'dataset.test_fraction' should be shares of the data that leave some to train on. "
            f"Found {val_fraction} and {test_fraction}."
        )


def cut(
    labels: np.ndarray | None,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    size: int | None = None,
    names: list[str] | None = None,
) -> dict[str, np.ndarray]:
    """Indices of train, val and test: at random, stratified by `labels` (class numbers) where they are given.

    Arguments:
        labels: int (N,), or None for a plain random split of `size` examples.
        val_fraction, test_fraction: shares of the whole, each in [0, 1); 0 leaves a split empty.
        names: the classes' names, for the message.

    Raises ConfigError when a class is too small to stand in every split.
    """
    check_fractions(val_fraction, test_fraction)
    wanted = 1 + (val_fraction > 0) + (test_fraction > 0)
    groups = [np.arange(size or 0)] if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]
    random = np.random.default_rng(seed)
    parts: dict[str, list[np.ndarray]] = {"train": [], "val": [], "test": []}
    for group in groups:
        if labels is not None and labels[group[0]] < 0 and len(group) < wanted:  # examples without this label
            parts["train"].append(group)
            continue
        if len(group) < wanted:
            assert labels is not None or size is not None
            what = (
                "The data set"
                if labels is None
                else f"Class '{names[labels[group[0]]] if names else labels[group[0]]}'"
            )
            raise ConfigError(
                f"{what} has {len(group)} example(s), and needs at least {wanted}: one in each split. "
                "Add examples, or leave the class out."
            )
        order = random.permutation(group)
        n_test = max(1, round(len(group) * test_fraction)) if test_fraction else 0
        n_val = max(1, round(len(group) * val_fraction)) if val_fraction else 0
        n_val, n_test = _leave_one(len(group), n_val, n_test)
        parts["test"].append(order[:n_test])
        parts["val"].append(order[n_test : n_test + n_val])
        parts["train"].append(order[n_test + n_val :])
    return {name: np.sort(np.concatenate(arrays)) for name, arrays in parts.items()}


def _leave_one(size: int, n_val: int, n_test: int) -> tuple[int, int]:
    """Take from the larger of the two until one example is left to train on."""
    while n_val + n_test >= size:
        n_val, n_test = (n_val, n_test - 1) if n_test >= n_val else (n_val - 1, n_test)
    return n_val, n_test
