"""Which tasks of a data set are chosen, and whether their labels are there. A reconstruction needs none."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from tlmtl.data.examples import Examples
from tlmtl.errors import ConfigError, nearest
from tlmtl.schema import RECONSTRUCTION
from tlmtl.values import shown

if TYPE_CHECKING:
    from torch import Tensor

    from tlmtl.tasks.base import Task


def select_tasks(wanted: Any, tasks: Mapping[str, Any], default: list[str], no_labels: str = "") -> list[str]:
    """Task names from "default", "all", a name or a list of names, in the order of the data set.

    Arguments:
        tasks: settings by name. Those of the kind reconstruction are selected by name alone.
        default: what "default" selects; the first task with labels when empty.
        no_labels: why the data set has no labels, for the message.
    """
    known, named = list(tasks), with_labels(tasks)
    if wanted in ("default", "all"):
        names = (default or named[:1]) if wanted == "default" else named
        if not names:
            raise ConfigError(f"{no_labels or 'This data set has no column of labels.'} {_without(wanted)}")
    else:
        listed = [wanted] if isinstance(wanted, str) or not isinstance(wanted, Sequence) else list(wanted)
        names = [name for name in listed if isinstance(name, str)]
        if len(names) < len(listed):
            raise ConfigError(
                f"'tasks' should be default, all or a list of names such as [{', '.join(known[:2])}]. Found {shown(wanted)}."
            )
    said = " It stands at 'dataset.default_tasks'." if wanted == "default" else ""
    for name in names:
        if name not in known:
            raise ConfigError(
                f"Unknown task '{name}'.{nearest(str(name), known)} This data set has: {', '.join(known)} "
                f"(tasks=default, tasks=all or tasks=[a,b]).{said}"
            )
    if not names:
        raise ConfigError(f"'tasks' selects no task. This data set has: {', '.join(known)}.")
    return [name for name in known if name in names]


def with_reconstruction(node: DictConfig) -> DictConfig:
    """A data set's node with a task `reconstruction` of that kind, unless there is one of that kind, or another of that
    name."""
    tasks = node.get("tasks") or {}
    stated = dict(tasks.get(RECONSTRUCTION) or {})
    if stated.get("kind") is not None or stated.get("target") is not None or len(with_labels(tasks)) < len(tasks):
        return node
    filled = node.copy()
    OmegaConf.set_struct(filled, False)
    filled.tasks = {**tasks, RECONSTRUCTION: {"kind": RECONSTRUCTION, **stated}}
    return filled


def columns_of(common: DictConfig) -> dict[str, str]:
    """By task that has labels: the column that holds them."""
    return {name: common.tasks[name].target or name for name in with_labels(common.tasks)}


def with_labels(tasks: Mapping[str, Any]) -> list[str]:
    """The names of the tasks that have labels: all but reconstructions. `tasks`: settings by name."""
    return [str(name) for name, one in tasks.items() if (one or {}).get("kind") != RECONSTRUCTION]


def check_column(examples: Examples, task: str, column: str) -> None:
    """Raises ConfigError for a task whose labels are not there."""
    if examples.no_labels:
        raise ConfigError(f"{examples.no_labels} {_without(task)}")
    if column not in examples.columns:
        raise ConfigError(
            f"'dataset.tasks.{task}' reads the column '{column}' (dataset.tasks.{task}.target), which is not there."
            f"{nearest(column, list(examples.columns))} Found: {', '.join(examples.columns)}."
        )


def without_labels(
    tasks: "Mapping[str, Task]", mask: "Mapping[str, Tensor]", splits: dict[str, np.ndarray]
) -> list[str]:
    """Notes on tasks that no validation or test example has a label of. Raises ConfigError when no task has one in
    validation that the best epoch could be chosen by: no primary one, or, where all are auxiliary, none."""
    lacking = {split: [name for name in tasks if not mask[name][splits[split]].any()] for split in ("val", "test")}
    choosing = [name for name, task in tasks.items() if task.primary] or list(tasks)
    if all(name in lacking["val"] for name in choosing):
        raise ConfigError(
            f"No validation example has a label of {' or '.join(choosing)}, so the best epoch cannot be chosen. Add some, or "
            "(where the splits are cut for you) try another dataset.split_seed or a larger dataset.val_fraction."
        )
    notes = [f"No validation example has a label of '{name}': it has no part in choosing." for name in lacking["val"]]
    return notes + [
        f"No test example has a label of '{name}': its test figures stay empty." for name in lacking["test"]
    ]


def check_seen(examples: Examples, splits: dict[str, np.ndarray], column: str) -> None:
    """Raises ConfigError for a class in val or test that train has no example of."""
    labels = examples.columns[column]
    if column not in examples.classes or labels.ndim > 1:
        return
    for split in ("val", "test"):
        stray = np.setdiff1d(labels[splits[split]], labels[splits["train"]])
        if len(stray := stray[stray >= 0]):
            names = ", ".join(examples.classes[column][i] for i in stray[:5])
            raise ConfigError(
                f"The {split} split has classes of '{column}' that the training split has no example of: {names}"
                f"{', ...' if len(stray) > 5 else ''}. Add training examples of them, leave them out, or (where the splits "
                "are cut for you) try another dataset.split_seed."
            )


def _without(wanted: str) -> str:
    return f"tasks={wanted} needs labels. Without them, a reconstruction can be trained: tasks=[{RECONSTRUCTION}]."
