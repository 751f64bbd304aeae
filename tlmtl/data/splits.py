"""Which example is in which split, and which labelled ones are kept. Fixed by the data and a seed of their own."""

from typing import Any

import numpy as np

from tlmtl.errors import ConfigError


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
    for key, value in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= value < 1 or val_fraction + test_fraction >= 1:
            raise ConfigError(
                f"'dataset.{key}' should be a share of the data that leaves some to train on. Found {value}."
            )
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


def _name(number: Any, names: list[str] | None) -> Any:
    return names[number] if names and number is not None else number


def _leave_one(size: int, n_val: int, n_test: int) -> tuple[int, int]:
    """Take from the larger of the two until one example is left to train on."""
    while n_val + n_test >= size:
        n_val, n_test = (n_val, n_test - 1) if n_test >= n_val else (n_val - 1, n_test)
    return n_val, n_test


def subset(
    train: np.ndarray,
    labels: np.ndarray | None,
    labels_per_class: int | None,
    label_fraction: float | None,
    seed: int,
    names: list[str] | None = None,
) -> np.ndarray:
    """The training examples that are kept: the first so many of each class in an order drawn from `seed`, so that a
    smaller subset of one seed is part of a larger one.

    Raises ConfigError for more labels than there are, or both settings at once.
    """
    if labels_per_class is None and label_fraction is None:
        return train
    if labels_per_class is not None and label_fraction is not None:
        raise ConfigError(
            "Set one of 'dataset.labels_per_class' and 'dataset.label_fraction', not both: "
            f"found {labels_per_class} and {label_fraction} (dataset.labels_per_class=null takes the first one back)."
        )
    random = np.random.default_rng(seed)
    if labels is None:
        if labels_per_class is not None:
            raise ConfigError("'dataset.labels_per_class' needs a task with classes. Use 'dataset.label_fraction'.")
        groups = {None: train}
    else:
        groups = {c: train[labels[train] == c] for c in np.unique(labels[train]) if c >= 0}
    if label_fraction is not None and not 0 < label_fraction <= 1:
        raise ConfigError(f"'dataset.label_fraction' should be above 0 and at most 1. Found {label_fraction}.")
    kept = []
    for number, group in groups.items():
        if labels_per_class is None:
            assert label_fraction is not None
            count = max(1, round(label_fraction * len(group)))
        else:
            count = labels_per_class
        if count < 1:
            raise ConfigError(f"'dataset.labels_per_class' should be 1 or more, or null for all. Found {count}.")
        if count > len(group):
            name = _name(number, names)
            raise ConfigError(
                f"'dataset.labels_per_class' is {count}, but class '{name}' has {len(group)} training examples. "
                f"Choose 1 to {min(len(g) for g in groups.values())}."
            )
        kept.append(random.permutation(group)[:count])
    return np.sort(np.concatenate(kept))
