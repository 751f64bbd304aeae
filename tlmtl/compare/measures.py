"""Metrics from stored predictions, for many resamples of the examples at once. The runs' own are torchmetrics' (`tlmtl.tasks`):
what is computed here is used only where it gives the figure in the run's row.

Each takes weights w (B, n), how often each of n examples is in each of B resamples, and gives the metric of each, (B,), NaN
where it is not defined.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlmtl.compare.predictions import Said

Floats = NDArray[Any]
Metric = Callable[[Floats, Said], Floats]

BINS = 15  # of a calibration error


def find(kind: str, metric: str) -> Metric | None:
    """The metric of a task of that kind; None for one that is not known here."""
    return KINDS.get(kind, {}).get(metric)


def _mean(values: Callable[[Said], Floats]) -> Metric:
    """A metric that is the mean of a value of each example."""

    def measured(w: Floats, said: Said) -> Floats:
        return _ratio(w @ values(said).astype(w.dtype), w.sum(axis=1))

    return measured


def _right(said: Said) -> Floats:
    return said.output.argmax(axis=1) == said.target


def _error(said: Said) -> Floats:
    return said.output[:, 0] - said.target


def _squared(w: Floats, said: Said) -> Floats:
    return _mean(lambda one: _error(one) ** 2)(w, said)


def _explained(w: Floats, said: Said) -> Floats:
    """1 - squared error / variance around the mean of the resample."""
    centred = (said.target - said.target.mean()).astype(w.dtype)
    total = w.sum(axis=1)
    variance = _ratio(w @ centred**2, total) - _ratio(w @ centred, total) ** 2
    return 1 - _ratio(_squared(w, said), variance)


def _by_class(w: Floats, groups: NDArray, classes: int) -> Floats:
    """Sums of weights (B, n) over the examples of each group (n,) of 0 .. classes - 1: (B, classes)."""
    order = np.argsort(groups, kind="stable")
    there, starts = np.unique(groups[order], return_index=True)
    sums = np.zeros((len(w), classes), dtype=w.dtype)
    if len(there):
        sums[:, there.astype(int)] = np.add.reduceat(w[:, order], starts, axis=1)
    return sums


def _balanced(w: Floats, said: Said) -> Floats:
    """The mean share of right answers over the classes that have examples."""
    classes, target, right = said.output.shape[1], said.target.astype(int), _right(said)
    shares = _ratio(_by_class(w[:, right], target[right], classes), _by_class(w, target, classes))
    return _nanmean(shares)


def _macro_f1(w: Floats, said: Said) -> Floats:
    """Over the classes that have examples or were predicted."""
    classes, target, right = said.output.shape[1], said.target.astype(int), _right(said)
    both = _by_class(w, target, classes) + _by_class(w, said.output.argmax(axis=1), classes)
    return _nanmean(_ratio(2 * _by_class(w[:, right], target[right], classes), both))


def _calibration(w: Floats, confidence: Floats, right: Floats) -> Floats:
    """Expected calibration error in bins of equal width (Guo et al. 2017, equation 3); a probability of 1 is a bin."""
    bins = np.digitize(confidence, np.linspace(0, 1, BINS + 1)) - 1
    gaps = w * (confidence - right).astype(w.dtype)
    return _ratio(np.abs(_by_class(gaps, bins, BINS + 1)).sum(axis=1), w.sum(axis=1))


def _ece(w: Floats, said: Said) -> Floats:
    scores = np.exp(said.output - said.output.max(axis=1, keepdims=True))
    return _calibration(w, (scores / scores.sum(axis=1, keepdims=True)).max(axis=1), _right(said))


def _ranked(w: Floats, scores: Floats, positive: Floats) -> tuple[Floats, Floats]:
    """Sums of positives and of negatives (B, G) down to each of the G different scores, the highest first."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    positives = w[:, order] * positive[order].astype(w.dtype)
    return positives.cumsum(axis=1)[:, ends], (w[:, order] - positives).cumsum(axis=1)[:, ends]


def _area(w: Floats, scores: Floats, positive: Floats) -> Floats:
    """Under the curve of true against false alarms; ties count half."""
    hits, alarms = _ranked(w, scores, positive)
    before = np.pad(hits, ((0, 0), (1, 0)))
    steps = np.diff(alarms, axis=1, prepend=0)
    return _ratio((steps * (before[:, :-1] + before[:, 1:]) / 2).sum(axis=1), hits[:, -1] * alarms[:, -1])


def _precision(w: Floats, scores: Floats, positive: Floats) -> Floats:
    """Average precision: the precision at each score, weighed by the recall that it adds."""
    hits, alarms = _ranked(w, scores, positive)
    steps = np.diff(hits, axis=1, prepend=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        summed = np.nansum(steps * hits / (hits + alarms), axis=1)
    return _ratio(summed, hits[:, -1])


def _auroc(w: Floats, said: Said) -> Floats:
    """Each class's probability against the rest, averaged over the classes that are there."""
    shifted = said.output - said.output.max(axis=1, keepdims=True)
    shares = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    seen = np.unique(said.target).astype(int)
    return _nanmean(np.column_stack([_area(w, shares[:, one], said.target == one) for one in seen]))


def _labels(metric: Callable[[Floats, Floats, Floats], Floats]) -> Metric:
    """The mean over labels of `metric(w, probability, truth)`, each on the examples for which it is known."""

    def measured(w: Floats, said: Said) -> Floats:
        found = []
        for score, truth in zip((1 / (1 + np.exp(-said.output))).T, said.target.T, strict=True):
            known = ~np.isnan(truth)
            if known.any():
                found.append(metric(w[:, known], score[known], truth[known] == 1))
        return _nanmean(np.column_stack(found)) if found else np.full(len(w), np.nan)

    return measured


def _label_right(w: Floats, score: Floats, truth: Floats) -> Floats:
    return _ratio(w @ ((score > 0.5) == truth).astype(w.dtype), w.sum(axis=1))


def _label_balanced(w: Floats, score: Floats, truth: Floats) -> Floats:
    return (
        _label_right(w[:, truth], score[truth], truth[truth]) + _label_right(w[:, ~truth], score[~truth], truth[~truth])
    ) / 2


def _label_f1(w: Floats, score: Floats, truth: Floats) -> Floats:
    said = score > 0.5
    return _ratio(2 * w[:, said & truth].sum(axis=1), w[:, said].sum(axis=1) + w[:, truth].sum(axis=1))


def _rebuilt(w: Floats, said: Said) -> Floats:
    return _mean(lambda one: one.output[:, 0] ** 2)(w, said)


def _rebuilt_share(w: Floats, said: Said) -> Floats:
    """1 - squared error / variance of all pixels around their mean."""
    total, moments = w.sum(axis=1), said.target.astype(w.dtype)
    variance = _ratio(w @ moments[:, 1], total) - _ratio(w @ moments[:, 0], total) ** 2
    return 1 - _ratio(_rebuilt(w, said), variance)


def _ratio(above: Floats, below: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(below > 0, above / below, np.nan)


def _nanmean(values: Floats) -> Floats:
    """Of each row of (B, K), over what is there."""
    there = ~np.isnan(values)
    return _ratio(np.where(there, values, 0).sum(axis=1), there.sum(axis=1))


REGRESSION: dict[str, Metric] = {
    "mae": _mean(lambda said: np.abs(_error(said))),
    "mse": _squared,
    "rmse": lambda w, said: np.sqrt(_squared(w, said)),
    "r2": _explained,
}
KINDS: dict[str, dict[str, Metric]] = {
    "classification": {
        "accuracy": _mean(_right), "mean_class_accuracy": _balanced, "balanced_accuracy": _balanced,
        "macro_f1": _macro_f1, "auroc": _auroc, "ece": _ece,
    },
    "regression": REGRESSION,
    "multilabel": {
        "accuracy": _labels(_label_right), "balanced_accuracy": _labels(_label_balanced), "macro_f1": _labels(_label_f1),
        "mean_average_precision": _labels(_precision), "macro_auroc": _labels(_area),
        "ece": _labels(_calibration),
    },
    "reconstruction": {"mse": _rebuilt, "r2": _rebuilt_share},
}  # fmt: skip
