"""Metrics by kind of task, all computed by torchmetrics (imported when first measured). Which way is better is told by
their names: `tlmtl.compare.metrics`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BINS = 15  # of a calibration error


def _classification(function: str, average: str) -> Callable[..., Tensor]:
    """(scores (n, K), classes (n,), K) -> scalar."""

    def measured(scores: Tensor, target: Tensor, classes: int) -> Tensor:
        from torchmetrics.functional import classification

        return getattr(classification, function)(scores, target, classes, average=average)

    return measured


def _balanced_accuracy(scores: Tensor, target: Tensor, classes: int) -> Tensor:
    """The mean share of right answers over the classes that have examples. (torchmetrics counts a class without as 0 when
    it was predicted once.) scikit-learn calls it balanced accuracy; for data sets such as Pets it is the mean per-class
    accuracy."""
    from torchmetrics.functional import classification

    recall = classification.multiclass_accuracy(scores, target, classes, average="none")
    return recall[target.unique()].mean()


def _auroc(scores: Tensor, target: Tensor, classes: int) -> Tensor | None:
    """The area under the curve of each class's probability against the rest, averaged over the classes that are there; None
    where fewer than two are, since one class has no rest."""
    from torchmetrics.functional import classification

    shares, seen = scores.double().softmax(1), target.unique().tolist()
    if len(seen) < 2:
        return None
    return torch.stack([classification.binary_auroc(shares[:, i], (target == i).long()) for i in seen]).mean()


def _ece(scores: Tensor, target: Tensor, classes: int) -> Tensor:
    """Expected calibration error with 15 bins of equal width (Guo et al. 2017, equation 3)."""
    from torchmetrics.functional import classification

    return classification.multiclass_calibration_error(scores.double().softmax(1), target, classes, n_bins=BINS)


def _regression(function: str, **settings: Any) -> Callable[..., Tensor]:
    """(values (n,), targets (n,)) -> scalar. None of them changes when both are shifted, and sums of squares far from zero
    would lose their digits."""

    def measured(values: Tensor, target: Tensor) -> Tensor:
        from torchmetrics.functional import regression

        centre = target.double().mean()
        return getattr(regression, function)(values.double() - centre, target.double() - centre, **settings)

    return measured


def _label_ece(said: Tensor, true: Tensor) -> Tensor:
    """How far a label's probability is from how often it is there, in 15 bins of equal width."""
    from torchmetrics.functional import classification

    return classification.binary_calibration_error(said, true, n_bins=BINS)


def _both_sides(said: Tensor, true: Tensor) -> Tensor:
    """The mean share of right answers where a label is there and where it is not."""
    right = ((said > 0.5) == true.bool()).double()
    return (right[true == 1].mean() + right[true == 0].mean()) / 2


def _multilabel(
    function: str | Callable[[Tensor, Tensor], Tensor], defined: Callable[[Tensor, Tensor], Any]
) -> Callable[..., float | None]:
    """(scores (n, K), labels (n, K) with NaN for unknown) -> the mean over the labels where it is defined; None if nowhere.

    Label by label, by a function of torchmetrics (its name) or of ours, because torchmetrics' own multilabel metrics need two
    labels, and count an undefined one as 0.
    """

    def measured(scores: Tensor, target: Tensor) -> float | None:
        from torchmetrics.functional import classification

        found = []
        for score, labels in zip(scores.double().sigmoid().unbind(1), target.unbind(1), strict=True):
            known = ~labels.isnan()
            said, true = score[known], labels[known].long()
            if len(true) and defined(said, true):
                compute = getattr(classification, function) if isinstance(function, str) else function
                found.append(compute(said, true))
        return float(torch.stack(found).mean()) if found else None

    return measured


def _mixed(said: Tensor, true: Tensor) -> bool:
    return bool(true.any() and not true.all())


CLASSIFICATION = {
    "accuracy": _classification("multiclass_accuracy", "micro"),
    "mean_class_accuracy": _balanced_accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _classification("multiclass_f1_score", "macro"),  # over classes that are there or were predicted
    "auroc": _auroc,
    "ece": _ece,
}
REGRESSION = {
    "mae": _regression("mean_absolute_error"),
    "mse": _regression("mean_squared_error"),
    "rmse": _regression("mean_squared_error", squared=False),
    "r2": _regression("r2_score"),
}
MULTILABEL = {  # at a probability of 0.5 where a threshold is needed
    "accuracy": _multilabel("binary_accuracy", lambda said, true: True),
    "balanced_accuracy": _multilabel(_both_sides, _mixed),
    "macro_f1": _multilabel("binary_f1_score", lambda said, true: true.any() or (said > 0.5).any()),
    "mean_average_precision": _multilabel("binary_average_precision", lambda said, true: true.any()),
    "macro_auroc": _multilabel("binary_auroc", _mixed),
    "ece": _multilabel(_label_ece, lambda said, true: True),
}
