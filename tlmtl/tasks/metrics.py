"""Metrics by kind of task. Which way is better is told by their names: `tlmtl.compare.metrics`.

Areas under curves are scikit-learn's (imported when first measured), the rest is a few lines of torch; all of them agree with
scikit-learn (`tests/test_task_kinds.py`, `tests/test_tasks.py`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

BINS = 15  # of a calibration error


def _accuracy(scores: Tensor, target: Tensor, classes: int) -> Tensor:
    return (scores.argmax(1) == target).sum() / len(target)


def _counts(scores: Tensor, target: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """By class: how often it was right, how often it is there, how often it was predicted. Each (classes,)."""
    answer = scores.argmax(1)
    right, there, predicted = target[answer == target], target, answer
    return tuple(torch.bincount(one, minlength=classes).float() for one in (right, there, predicted))  # type: ignore[return-value]


def _balanced_accuracy(scores: Tensor, target: Tensor, classes: int) -> Tensor:
    """The mean share of right answers over the classes that have examples. scikit-learn calls it balanced accuracy; for data
    sets such as Pets it is the mean per-class accuracy."""
    right, there, _ = _counts(scores, target, classes)
    seen = there > 0
    return (right[seen] / there[seen]).mean()


def _macro_f1(scores: Tensor, target: Tensor, classes: int) -> Tensor:
    """Over the classes that are there or were predicted."""
    right, there, predicted = _counts(scores, target, classes)
    f1 = 2 * right / (there + predicted).clamp(min=1)
    return (f1 / (there + predicted > 0).sum()).sum()


def _auroc(scores: Tensor, target: Tensor, classes: int) -> float | None:
    """The area under the curve of each class's probability against the rest, averaged over the classes that are there; None
    where fewer than two are, since one class has no rest."""
    shares, seen = scores.double().softmax(1), target.unique().tolist()
    if len(seen) < 2:
        return None
    return sum(_area(shares[:, i], target == i) for i in seen) / len(seen)


def _ece(scores: Tensor, target: Tensor, classes: int) -> Tensor:
    """Of the probability of the likeliest class."""
    share, answer = scores.double().softmax(1).max(1)
    return _calibration_error(share, answer == target)


def _calibration_error(share: Tensor, right: Tensor) -> Tensor:
    """Expected calibration error with 15 bins of equal width (Guo et al. 2017, equation 3); a probability of 1 is a bin.

    Arguments:
        share: probabilities (n,).
        right: bool (n,), what came.
    """
    bins = torch.bucketize(share, torch.linspace(0, 1, BINS + 1, dtype=share.dtype), right=True)
    return torch.zeros(BINS + 2, dtype=share.dtype).index_add(0, bins, share - right.to(share)).abs().sum() / len(share)


def _mse(values: Tensor, target: Tensor) -> Tensor:
    return (values - target).square().sum() / len(target)


def _r2(values: Tensor, target: Tensor) -> Tensor:
    """1 - squared error / variance; 1 for a perfect answer to targets that do not vary, 0 for another one."""
    squared = (values - target).square().sum()
    varied = target.square().sum() - target.sum() * (target.sum() / len(target))
    return torch.where(varied > 0, 1 - squared / varied, (squared <= 0).to(squared))


def _centred(metric: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """(values (n,), targets (n,)) -> scalar. No metric changes when both are shifted, and sums of squares far from zero would
    lose their digits."""

    def measured(values: Tensor, target: Tensor) -> Tensor:
        centre = target.double().mean()
        return metric(values.double() - centre, target.double() - centre)

    return measured


def _area(share: Tensor, true: Tensor) -> float:
    """Under the curve of true against false alarms."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(true.numpy(), share.numpy()))


def _average_precision(share: Tensor, true: Tensor) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(true.numpy(), share.numpy()))


def _label_f1(share: Tensor, true: Tensor) -> Tensor:
    answer = share > 0.5
    return 2 * (answer & true).sum() / (answer.sum() + true.sum())


def _both_sides(share: Tensor, true: Tensor) -> Tensor:
    """The mean share of right answers where a label is there and where it is not."""
    right = ((share > 0.5) == true).double()
    return (right[true].mean() + right[~true].mean()) / 2


def _multilabel(
    metric: Callable[[Tensor, Tensor], Tensor | float], defined: Callable[[Tensor, Tensor], bool | Tensor]
) -> Callable[[Tensor, Tensor], float | None]:
    """(scores (n, K), labels (n, K) with NaN for unknown) -> the mean over the labels where it is defined; None if nowhere.

    Arguments:
        metric: of one label's probabilities (n,) and whether it is there, bool (n,); `defined` on the same.
    """

    def measured(scores: Tensor, target: Tensor) -> float | None:
        values = []
        for share, labels in zip(scores.double().sigmoid().unbind(1), target.unbind(1), strict=True):
            known = ~labels.isnan()
            if known.any() and defined(share[known], labels[known] == 1):
                values.append(torch.as_tensor(metric(share[known], labels[known] == 1)))
        return float(torch.stack(values).mean()) if values else None

    return measured


def _mixed(share: Tensor, true: Tensor) -> Tensor:
    return true.any() & ~true.all()


CLASSIFICATION: dict[str, Callable[[Tensor, Tensor, int], Tensor | float | None]] = {
    "accuracy": _accuracy,
    "mean_class_accuracy": _balanced_accuracy,
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "auroc": _auroc,
    "ece": _ece,
}
REGRESSION = {
    "mae": _centred(lambda values, target: (values - target).abs().sum() / len(target)),
    "mse": _centred(_mse),
    "rmse": _centred(lambda values, target: _mse(values, target).sqrt()),
    "r2": _centred(_r2),
}
MULTILABEL = {  # at a probability of 0.5 where a threshold is needed
    "accuracy": _multilabel(lambda share, true: ((share > 0.5) == true).sum() / len(true), lambda share, true: True),
    "balanced_accuracy": _multilabel(_both_sides, _mixed),
    "macro_f1": _multilabel(_label_f1, lambda share, true: true.any() | (share > 0.5).any()),
    "mean_average_precision": _multilabel(_average_precision, lambda share, true: true.any()),
    "macro_auroc": _multilabel(_area, _mixed),
    "ece": _multilabel(_calibration_error, lambda share, true: True),
}
