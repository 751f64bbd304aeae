"""The kinds of task there are, and how one is made: from a data set's settings, or from what a saved model says of it."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tlmtl.errors import ConfigError, nearest
from tlmtl.schema import RECONSTRUCTION
from tlmtl.tasks import metrics, reconstruction
from tlmtl.tasks.base import Task
from tlmtl.tasks.classification import Classification
from tlmtl.tasks.multilabel import Multilabel
from tlmtl.tasks.reconstruction import Reconstruction
from tlmtl.tasks.regression import Regression

KINDS = {  # kind -> the metrics it knows, and those it reports when the data set names none
    "classification": (list(metrics.CLASSIFICATION), ["accuracy", "macro_f1"]),
    "multilabel": (list(metrics.MULTILABEL), ["mean_average_precision", "macro_f1"]),
    "regression": (list(metrics.REGRESSION), ["mae", "r2"]),
    RECONSTRUCTION: (reconstruction.METRICS, reconstruction.METRICS),
}
LOSSES = {  # kind -> what `loss` may name; the first is the kind's own
    "classification": ["cross_entropy"],
    "multilabel": ["binary_cross_entropy"],
    "regression": ["mse", "l1", "huber"],
    RECONSTRUCTION: ["mse"],
}


def make_task(name: str, settings: Any, train_column: np.ndarray | None, classes: list[str] | None) -> Task:
    """The task `name` of a data set.

    Arguments:
        settings: `dataset.tasks.<name>` (`schema.Task`).
        train_column: the labels of the training split, (n,) or (n, K); a regression takes its scale from them. None for a
            reconstruction, which has no column.
        classes: the names of the classes or labels, for a column that has them.

    Raises ConfigError for an unknown kind, metric or loss, for a setting that the kind does not take, and for labels that the
    kind cannot be.
    """
    where, kind = f"dataset.tasks.{name}", settings.kind
    _check_names(where, kind, settings.metrics)
    _check_loss(where, kind, settings)
    common = {
        "metrics": list(settings.metrics) or list(KINDS[kind][1]),
        "primary": settings.primary is None or settings.primary,
        "weight": settings.weight,
    }
    if kind == RECONSTRUCTION:
        return Reconstruction(name, **common)
    assert train_column is not None
    _check_labels(where, kind, train_column, classes)
    if kind == "classification":
        return Classification(name, list(classes or []), label_smoothing=settings.label_smoothing, **common)
    if kind == "multilabel":
        return Multilabel(name, list(classes or []), **common)
    values = train_column[_labelled(train_column, classes)]
    mean, std = float(values.mean()), float(values.std())
    constant = std <= 1e-12 * max(abs(mean), 1e-300)  # but for rounding
    loss = {"loss_name": settings.loss or LOSSES[kind][0], "huber_delta": settings.huber_delta}
    return Regression(name, mean, 1.0 if constant else std, **loss, **common)


def task_from(name: str, description: Mapping[str, Any]) -> Task:
    """The task that `describe()` told of. What is of use in training alone (weight, primary or not, loss, smoothing) is not in
    there, and has its default.

    Raises ConfigError for a kind that this version does not know.
    """
    kind, reported = description["kind"], list(description["metrics"]) if "metrics" in description else []
    if kind not in KINDS:
        raise ConfigError(f"The model's task '{name}' is of the unknown kind '{kind}'. Known: {', '.join(KINDS)}.")
    if kind == RECONSTRUCTION:
        return Reconstruction(name, reported)
    if kind == "regression":
        return Regression(name, description["mean"], description["std"], reported)
    made = Classification if kind == "classification" else Multilabel
    return made(name, list(description["classes"]), reported)


def _check_names(where: str, kind: str, wanted: Iterable[str]) -> None:
    if kind not in KINDS:
        raise ConfigError(f"Unknown '{where}.kind={kind}'.{nearest(kind, list(KINDS))} Known: {', '.join(KINDS)}.")
    known = KINDS[kind][0]
    for metric in wanted:
        if metric not in known:
            raise ConfigError(
                f"Unknown metric '{metric}' at '{where}.metrics'.{nearest(metric, known)} A {kind} has: {', '.join(known)}."
            )


def _check_loss(where: str, kind: str, settings: Any) -> None:
    """Raises ConfigError for settings of the loss that are out of range, or that a task of this kind does not read."""
    loss, smoothing, delta = settings.loss, settings.label_smoothing, settings.huber_delta
    if loss is not None and loss not in LOSSES[kind]:
        theirs = next((other for other in LOSSES if loss in LOSSES[other]), None)
        hint = f" That is of a {theirs}." if theirs else nearest(str(loss), LOSSES[kind])
        raise ConfigError(f"'{where}.loss' of a {kind} should be {' or '.join(LOSSES[kind])}. Found '{loss}'.{hint}")
    if not 0 <= smoothing < 1:
        raise ConfigError(
            f"'{where}.label_smoothing' should be a share from 0 up to, not including, 1. Found {smoothing}."
        )
    if smoothing and kind != "classification":
        raise ConfigError(
            f"'{where}.label_smoothing' is for classifications, and '{where}' is a {kind}. Found {smoothing}: leave it out."
        )
    if not (delta > 0 and math.isfinite(delta)):
        raise ConfigError(
            f"'{where}.huber_delta' should be above 0, in standard deviations of the targets. Found {delta}."
        )
    if delta != 1 and loss != "huber":
        raise ConfigError(f"'{where}.huber_delta' is read with {where}.loss=huber alone. Found {delta}: leave it out.")


def _check_labels(where: str, kind: str, train_column: np.ndarray, classes: list[str] | None) -> None:
    if train_column.ndim > 1 and kind != "multilabel":
        raise ConfigError(f"'{where}' is a {kind}, but its column holds several yes-or-no labels: kind=multilabel.")
    if train_column.ndim == 1 and kind == "multilabel":
        other = "regression" if classes is None else "classification"
        raise ConfigError(f"'{where}' is multilabel, but its column holds one label per example: kind={other}.")
    if kind == "classification" and classes is None:
        raise ConfigError(f"'{where}' is a classification, but its labels are numbers, not classes: kind=regression.")
    if kind == "regression" and classes is not None:
        raise ConfigError(f"'{where}' is a regression, but its labels are classes, not numbers: kind=classification.")
    if kind == "multilabel" and len(classes or []) != train_column.shape[1]:
        raise ConfigError(
            f"'{where}' needs a name for each of its {train_column.shape[1]} labels. Found {len(classes or [])}."
        )
    there = _labelled(train_column, classes)
    if not there.any():
        raise ConfigError(
            f"'{where}' has no label in the training split: nothing can be learned of it. Choose other tasks (tasks=[...])."
        )
    if kind == "classification" and classes is not None:
        seen = [classes[i] for i in np.unique(train_column[there])]
        if len(seen) < 2:
            raise ConfigError(
                f"'{where}' needs two classes at least in the training split. Found {len(seen)}: {', '.join(seen)}."
            )


def _labelled(column: np.ndarray, classes: list[str] | None) -> np.ndarray:
    """Which entries of a column hold a label: a class number from 0, or a number."""
    return column >= 0 if classes is not None else np.isfinite(column)
