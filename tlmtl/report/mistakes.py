"""What a run got wrong on the test split, from its stored predictions: confusions, and the examples it was worst at."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tlmtl.compare import printed
from tlmtl.compare.predictions import Said

WORST = 12  # examples shown of a task
LISTED = 15  # lines of a list


@dataclass(frozen=True)
class Wrong:
    """One example and what the model said of it."""

    id: str
    truth: str
    said: str


@dataclass(frozen=True)
class Listing:
    """A small table: what a chart would show less well."""

    title: str
    header: list[str]
    rows: list[list[str]]


def confusion(said: Said) -> NDArray[np.int64]:
    """Counts (K, K) of a classification: rows are true classes, columns what the model said."""
    size = max(said.output.shape[1], int(said.target.max()) + 1)
    counts = np.zeros((size, size), dtype=np.int64)
    np.add.at(counts, (said.target.astype(int), said.output.argmax(1)), 1)
    return counts


def confused(counts: NDArray[np.int64], classes: list[str], lines: int = LISTED) -> Listing:
    """The pairs of classes that were taken for one another most often."""
    off = counts - np.diag(np.diag(counts))
    order = np.argsort(-off, axis=None, kind="stable")[:lines]
    pairs = [divmod(int(at), len(off)) for at in order]
    rows = [[name(classes, true), name(classes, said), f"{off[true, said]}", f"{off[true, said] / counts[true].sum():.0%}"]
            for true, said in pairs if off[true, said]]  # fmt: skip
    return Listing("Most frequent confusions", ["true", "said", "images", "of that class"], rows)


def per_label(said: Said, classes: list[str]) -> Listing:
    """For each label of a multilabel task: how often it is there, was missed, or was said and is not there; worst first."""
    there, known, guessed = said.target == 1, ~np.isnan(said.target), said.output > 0
    missed, alarms = (there & ~guessed).sum(0), (known & ~there & guessed).sum(0)
    order = np.argsort(-(missed + alarms), kind="stable")[: 2 * LISTED]
    rows = [[name(classes, at), f"{there[:, at].sum()}", f"{missed[at]}", f"{alarms[at]}"] for at in order.tolist()]
    return Listing("Mistakes by label", ["label", "images with it", "missed", "false alarms"], rows)


def worst(said: Said, kind: str, classes: list[str]) -> list[Wrong]:
    """The examples with the greatest loss, greatest first: of a classification or a multilabel task only wrong ones."""
    if kind == "classification":
        shares = _softmax(said.output)
        truth, guess = said.target.astype(int), said.output.argmax(1)
        right = np.take_along_axis(shares, truth[:, None], 1)[:, 0]
        order = [at for at in np.argsort(right, kind="stable").tolist() if truth[at] != guess[at]][:WORST]
        return [Wrong(str(said.ids[at]), name(classes, truth[at]), f"{name(classes, guess[at])} ({shares[at, guess[at]]:.0%})")
                for at in order]  # fmt: skip
    if kind == "multilabel":
        known = ~np.isnan(said.target)
        loss = np.logaddexp(0, np.where(said.target == 1, -said.output, said.output))
        each = np.where(known, loss, 0).sum(1) / np.maximum(known.sum(1), 1)
        wrong = (known & ((said.target == 1) != (said.output > 0))).any(1)
        order = [at for at in np.argsort(-each, kind="stable").tolist() if wrong[at]][:WORST]
        return [Wrong(str(said.ids[at]), _labels(said.target[at] == 1, classes), _labels(said.output[at] > 0, classes))
                for at in order]  # fmt: skip
    if kind == "regression":
        value = said.output[:, 0]
        order = np.argsort(-np.abs(value - said.target), kind="stable")[:WORST].tolist()
        digits = printed.places(float(np.abs(said.target).max()))
        return [Wrong(str(said.ids[at]), f"{said.target[at]:.{digits}f}", f"{value[at]:.{digits}f}") for at in order]
    order = np.argsort(-said.output[:, 0], kind="stable")[:WORST].tolist()
    return [Wrong(str(said.ids[at]), "", f"error {said.output[at, 0]:.4g} (root mean square)") for at in order]


def name(classes: list[str], number: int) -> str:
    return classes[number] if number < len(classes) else str(number)


def _labels(there: NDArray[np.bool_], classes: list[str]) -> str:
    return ", ".join(name(classes, at) for at in np.flatnonzero(there).tolist()) or "none"


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(1, keepdims=True)
    return shares
