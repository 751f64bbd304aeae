"""Which labelled training examples are kept, so that one can see how far few labels would get."""

from typing import Any

import numpy as np

from tlmtl.errors import ConfigError


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
        labelled = [
            c for c in np.unique(labels[train]) if c >= 0 or labels_per_class is None
        ]  # -1: no label of this task
        groups = {c: train[labels[train] == c] for c in labelled}
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


def _name(number: Any, names: list[str] | None) -> Any:
    return names[number] if names and number is not None else number
