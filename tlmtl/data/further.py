"""`evaluate.also`: further test sets for the trained model, such as those of another hospital. Nothing is chosen by them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from tlmtl.config import build, check_dataset
from tlmtl.data.dataset import Data
from tlmtl.data.examples import Examples
from tlmtl.data.read import digest, plain, shared_settings
from tlmtl.data.splits import divide
from tlmtl.errors import ConfigError
from tlmtl.tasks.base import Task

ALL = 1.0  # the test fraction of a set that is for testing alone


def further(name: str, node: DictConfig, data: Data, allow: list[str], cache: Path | None) -> Data:
    """The test split of another data set, with those of the tasks of `data` that it has labels for.

    Classes are matched by name. Without splits of its own its test split is cut as `node` says; all of it is tested where
    `test_fraction` is 1.

    Arguments:
        name: as `evaluate.also` calls it.
        node: its config, as `cfg.dataset`.

    Raises ConfigError when it has none of the tasks, when it has classes that the model does not know, and when images of
    it are among those that `data` trains or chooses on.
    """
    where = f"evaluate.also.{name}"
    common, family = check_dataset(node, where)
    # families that cut on their own (two_digits) know no set that is for testing alone
    shared = {**shared_settings(common), "test_fraction": min(common.test_fraction, 0.5)}
    examples: Examples = build(plain(family), "dataset", where, allow=allow, cache=cache, **shared)
    test = _test(examples, common)
    _check_apart(where, data, examples, test)
    examples.images = examples.images.as_channels(data.channels)  # `hashes` stay those of the originals
    encoded: dict[str, tuple[Tensor, Tensor]] = {}
    for task in data.tasks.values():
        if task.of_input:
            continue
        column = _column(task.name, common, data.columns[task.name], examples)
        if column is not None:
            encoded[task.name] = task.encode(_matched(where, task, column, examples, test))
    everywhere = torch.ones(len(examples), dtype=torch.bool)
    mask = {name: everywhere for name, task in data.tasks.items() if task.of_input} | _of(encoded, 1)
    if not mask:
        raise ConfigError(
            f"'{where}' has labels for none of the tasks {', '.join(data.tasks)}. It has: {', '.join(examples.columns)}."
        )
    examples.notes += _shared_groups(where, data, examples, test)
    return Data(
        examples,
        {"test": test},
        {name: task for name, task in data.tasks.items() if name in mask},
        _of(encoded, 0),
        mask,
        {task: column for task, column in data.columns.items() if task in encoded},
        "none",
        digest(examples.hashes, *[examples.columns[column] for column in sorted(examples.columns)], test),
        "",
        data.in_memory,
    )


def _of(encoded: Mapping[str, tuple[Tensor, Tensor]], which: int) -> dict[str, Tensor]:
    return {name: pair[which] for name, pair in encoded.items()}


def _test(examples: Examples, common: DictConfig) -> np.ndarray:
    if examples.split is not None and (examples.split == "test").any():
        return np.flatnonzero(examples.split == "test")
    if common.test_fraction == ALL:
        return np.arange(len(examples))
    return divide(examples, common.val_fraction, common.test_fraction, common.split_seed, None, examples.groups)["test"]


def _column(task: str, common: DictConfig, column: str, examples: Examples) -> str | None:
    """The column that holds a task's labels: that of the task of this name there, else the column of this name."""
    there = common.tasks.get(task)
    for name in ([there.target or task] if there else []) + [column, task]:
        if name in examples.columns:
            return name
    return None


def _matched(where: str, task: Task, column: str, examples: Examples, test: np.ndarray) -> np.ndarray:
    """Labels by the class numbers of `task`."""
    labels = examples.columns[column]
    known: list[str] | None = getattr(task, "classes", None)
    theirs = examples.classes.get(column)
    if known is None:
        if theirs is not None:
            raise ConfigError(f"'{where}' has classes for the task '{task.name}', which is a regression.")
        return labels
    if theirs is None:
        raise ConfigError(
            f"'{where}' has numbers for the task '{task.name}', which has classes: {', '.join(known[:8])}."
        )
    used = np.unique(labels[test][labels[test] >= 0]) if labels.ndim == 1 else np.arange(len(theirs))
    if stray := [theirs[int(i)] for i in used if theirs[int(i)] not in known]:
        raise ConfigError(
            f"'{where}' has classes of the task '{task.name}' that the model does not know: {', '.join(stray[:5])}"
            f"{', ...' if len(stray) > 5 else ''}. It knows: {', '.join(known[:8])}{', ...' if len(known) > 8 else ''}."
        )
    if labels.ndim == 2:
        matched = np.zeros((len(labels), len(known)), dtype=np.float32)
        matched[:, [known.index(name) for name in theirs]] = labels
        matched[np.isnan(labels).all(1)] = np.nan
        return matched
    numbers = np.array([known.index(one) if one in known else -1 for one in theirs] + [-1], dtype=np.int64)
    return numbers[labels]


def _shared_groups(where: str, data: Data, examples: Examples, test: np.ndarray) -> list[str]:
    """A note on groups of that name that are trained on: whether they are the same patients the names do not say."""
    ours, theirs = data.examples.groups, examples.groups
    if ours is None or theirs is None:
        return []
    learnt = np.concatenate([data.splits["train"], data.splits["val"]])
    both = sorted(set(map(str, ours[learnt])) & set(map(str, theirs[test])))
    if not both:
        return []
    return [f"{len(both)} groups of '{where}' have the names of groups that are trained on, such as {both[0]}."]


def _check_apart(where: str, data: Data, examples: Examples, test: np.ndarray) -> None:
    learnt = data.input_hashes("train", "val")
    copies = int(np.isin(examples.hashes[test], learnt).sum())
    if copies and data.on_duplicate != "allow":
        raise ConfigError(
            f"{copies} of the {len(test)} images of '{where}' are exact copies of training or validation images, so its "
            "figures would flatter. Remove them, or say dataset.on_duplicate=allow."
        )
