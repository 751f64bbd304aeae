"""The kinds of task there are, and how one is made: from a data set's settings, or from what a saved model says of it."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tlmtl.errors import ConfigError, nearest
from tlmtl.tasks import metrics
from tlmtl.tasks.base import Task
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.multilabel import Multilabel
from tlmtl.tasks.regression import Regression

KINDS = {  # kind -> the metrics it knows, and those it reports when the data set names none
    "classification": (list(metrics.CLASSIFICATION), ["accuracy", "macro_f1"]),
    "multilabel": (list(metrics.MULTILABEL), ["mean_average_precision", "macro_f1"]),
    "regression": (list(metrics.REGRESSION), ["mae", "r2"]),
}


def make_task(name: str, settings: Any, train_column: np.ndarray, classes: list[str] | None) -> Task:
    """The task `name` of a data set.

    Arguments:
        settings: `dataset.tasks.<name>` (kind, metrics, primary, weight).
        train_column: the labels of the training split, (n,) or (n, K); a regression takes its scale from them.
        classes: the names of the classes or labels, for a column that has them.

    Raises ConfigError for an unknown kind or metric, and for labels that the kind cannot be.
    """
    where, kind = f"dataset.tasks.{name}", settings.kind
    _check_names(where, kind, settings.metrics)
    _check_labels(where, kind, train_column, classes)
    common = {
        "metrics": list(settings.metrics) or KINDS[kind][1],
        "primary": settings.primary,
        "weight": settings.weight,
    }
    if kind == "classification":
        return Classification(name, list(classes or []), **common)
    if kind == "multilabel":
        return Multilabel(name, list(classes or []), **common)
    values = train_column[_labelled(train_column, classes)]
    mean, std = float(values.mean()), float(values.std())
    constant = std <= 1e-12 * max(abs(mean), 1e-300)  # but for rounding
    return Regression(name, mean, 1.0 if constant else std, **common)


def task_from(name: str, description: Mapping[str, Any]) -> Task:
    """The task that `describe()` told of. Its weight and whether it is primary are not in there, and are the defaults.

    Raises ConfigError for a kind that this version does not know.
    """
    kind = description["kind"]
    if kind not in KINDS:
        raise ConfigError(f"The model's task '{name}' is of the unknown kind '{kind}'. Known: {', '.join(KINDS)}.")
    if kind == "regression":
        return Regression(name, description["mean"], description["std"], list(description["metrics"]))
    made = Classification if kind == "classification" else Multilabel
    return made(name, list(description["classes"]), list(description["metrics"]))


def _check_names(where: str, kind: str, wanted: Iterable[str]) -> None:
    if kind not in KINDS:
        raise ConfigError(f"Unknown '{where}.kind={kind}'.{nearest(kind, list(KINDS))} Known: {', '.join(KINDS)}.")
    known = KINDS[kind][0]
    for metric in wanted:
        if metric not in known:
            raise ConfigError(
                f"Unknown metric '{metric}' at '{where}.metrics'.{nearest(metric, known)} A {kind} has: {', '.join(known)}."
            )


def _check_labels(where: str, kind: str, train_column: np.ndarray, classes: list[str] | None) -> None:
    if train_column.ndim > 1 and kind != "multilabel":
        raise ConfigError(f"'{where}' is a {kind}, but its column holds several yes-or-no labels: kind=multilabel.")
    if train_column.ndim == 1 and kind == "multilabel":
        other = "regression" if classes is None else "classification"
        raise ConfigError(f"'{where}' is multilabel, but its column holds one label per example: kind={other}.")
    if kind == "classification" and classes is None:
        raise ConfigError(f"'{where}' is a classification, but its labels are numbers, not classes: kind=regression.")
    if kind == "classification" and classes is not None and len(classes) < 2:
        raise ConfigError(f"'{where}' needs two classes at least. Found {len(classes)}: {', '.join(classes)}.")
    if kind == "multilabel" and len(classes or []) != train_column.shape[1]:
        raise ConfigError(
            f"'{where}' needs a name for each of its {train_column.shape[1]} labels. Found {len(classes or [])}."
        )
    if not _labelled(train_column, classes).any():
        raise ConfigError(f"'{where}' has no label in the training split.")


def _labelled(column: np.ndarray, classes: list[str] | None) -> np.ndarray:
    """Which entries of a column hold a label: a class number from 0, or a number."""
    return column >= 0 if classes is not None else np.isfinite(column)
