"""Metrics by kind of task, all computed by torchmetrics (imported when first measured). Which way is better is told by
their names: `tlmtl.compare.metrics`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _classification(function: str, average: str) -> Callable[..., Tensor]:
    """(scores (n, K), classes (n,), K) -> scalar."""

    def measured(scores: Tensor, target: Tensor, classes: int) -> Tensor:
        from torchmetrics.functional import classification

        return getattr(classification, function)(scores, target, classes, average=average)

    return measured


def _mean_class_accuracy(scores: Tensor, target: Tensor, classes: int) -> Tensor:
    """The mean share of right answers over the classes that have examples. (torchmetrics counts a class without as 0 when
    it was predicted once.)"""
    from torchmetrics.functional import classification

    recall = classification.multiclass_accuracy(scores, target, classes, average="none")
    return recall[target.unique()].mean()


def _regression(function: str) -> Callable[..., Tensor]:
    """(values (n,), targets (n,)) -> scalar. None of them changes when both are shifted, and sums of squares far from zero
    would lose their digits."""

    def measured(values: Tensor, target: Tensor) -> Tensor:
        from torchmetrics.functional import regression

        centre = target.double().mean()
        return getattr(regression, function)(values.double() - centre, target.double() - centre)

    return measured


def _multilabel(function: str, defined: Callable[[Tensor, Tensor], Any]) -> Callable[..., float | None]:
    """(scores (n, K), labels (n, K) with NaN for unknown) -> the mean over the labels where it is defined; None if nowhere.

    Label by label, because torchmetrics' own multilabel metrics need two labels, and count an undefined one as 0.
    """

    def measured(scores: Tensor, target: Tensor) -> float | None:
        from torchmetrics.functional import classification

        found = []
        for score, labels in zip(scores.double().sigmoid().unbind(1), target.unbind(1), strict=True):
            known = ~labels.isnan()
            said, true = score[known], labels[known].long()
            if len(true) and defined(said, true):
                found.append(getattr(classification, function)(said, true))
        return float(torch.stack(found).mean()) if found else None

    return measured


CLASSIFICATION = {
    "accuracy": _classification("multiclass_accuracy", "micro"),
    "mean_class_accuracy": _mean_class_accuracy,
    "macro_f1": _classification("multiclass_f1_score", "macro"),  # over classes that are there or were predicted
}
REGRESSION = {
    "mae": _regression("mean_absolute_error"),
    "mse": _regression("mean_squared_error"),
    "r2": _regression("r2_score"),
}
MULTILABEL = {  # at a probability of 0.5 where a threshold is needed
    "accuracy": _multilabel("binary_accuracy", lambda said, true: True),
    "macro_f1": _multilabel("binary_f1_score", lambda said, true: true.any() or (said > 0.5).any()),
    "mean_average_precision": _multilabel("binary_average_precision", lambda said, true: true.any()),
    "macro_auroc": _multilabel("binary_auroc", lambda said, true: true.any() and not true.all()),
}
