"""`strategy=logistic`: a regularised linear classifier, brought to its minimum."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlmtl.errors import ConfigError
from tlmtl.models.heads import LinearHead
from tlmtl.solvers.base import OF_STEPS, Problem, Solved, Tried, best_of, tried
from tlmtl.solvers.path import Binary, CrossEntropy, Loss, path, rotated
from tlmtl.tasks.base import Task
from tlmtl.tasks.classification import Classification

KINDS = ("classification", "multilabel")


class Logistic:
    """Multinomial logistic regression; for a multilabel task, one of each label. The minimum of

        C sum_i loss_i + |W|^2 / 2

    over weights and, unpenalised, biases, as scikit-learn's LogisticRegression has it, for values of C evenly spaced in their
    logarithm, of which validation chooses by its loss. The protocol is that of DINOv2 (Oquab et al. 2023): 45 values from 1e-6
    to 1e5, features as they are. (CLIP, Radford et al. 2021, has 96 from 1e-6 to 1e6.) Unlike DINOv2,
    which fits once more on training and validation examples together, the head stays that of the training examples, as every
    other strategy's does; and values of C beyond the best are not all tried (`patience`). The loss is the task's own in
    training: with class weights and label smoothing where these are set, over labels that are known.

    A class without an example has no minimum, nor has a label that all examples have, or none: weights are 0 then, and the
    bias is what so many examples allow to say.

    Arguments:
        strengths: how many values of C, 1 or more.
        lowest, highest: the first and the last of them, above 0.
        patience: stop after so many values in a row that were no better on validation; null for never.
        standardize: divide each feature by its standard deviation first.
        passes: over the training examples for one value, at most.
    """

    ignores: ClassVar[tuple[str, ...]] = OF_STEPS

    def __init__(
        self,
        strengths: int = 45,
        lowest: float = 1e-6,
        highest: float = 1e5,
        patience: int | None = 8,
        standardize: bool = False,
        passes: int = 1000,
    ) -> None:
        for name, value in (("strengths", strengths), ("passes", passes), ("patience", patience)):
            if value is not None and value < 1:
                raise ConfigError(f"'strategy.solver.{name}' should be 1 or more. Found {value}.")
        if not 0 < lowest <= highest < float("inf"):
            raise ConfigError(
                "'strategy.solver.lowest' and 'highest' should be above 0, the first not above the second. "
                f"Found {lowest} and {highest}."
            )
        self.values = np.geomspace(lowest, highest, strengths).tolist()
        self.patience, self.standardize, self.passes = patience, standardize, passes

    def check(self, tasks: Mapping[str, Task], run: Any) -> None:
        for name, task in tasks.items():
            if task.kind not in KINDS:
                raise ConfigError(
                    f"strategy=logistic classifies ({' or '.join(KINDS)}). Found the task '{name}' ({task.kind}): leave it "
                    "out of tasks, or choose strategy=linear_probe or strategy=knn."
                )
        if run.cfg.head.hidden:
            raise ConfigError(
                f"strategy=logistic finds linear heads: 'head.hidden' should be []. Found {list(run.cfg.head.hidden)}."
            )

    def count(self, total: int) -> int:
        return len(self.values)

    def solve(self, problem: Problem) -> Solved:
        task, train, val = problem.task, problem.train, problem.val
        fit = _of_classes(task, train.targets) if isinstance(task, Classification) else _of_labels(train.targets)
        data = rotated(train.features, self.standardize)
        there = data.of(val.features) if len(val) else torch.zeros(0, len(data.variance))
        pulls = [1 / (c * len(train)) for c in self.values]
        found: list[Tried] = []
        steps, best, layer = 0, 0, (torch.zeros(0), torch.zeros(0))
        for c, solution in zip(
            self.values, path(data, fit.loss, fit.spread.shape[1], pulls, self.passes), strict=False
        ):
            weight, bias = fit.spread @ solution.weight, fit.bias + fit.spread @ solution.bias
            steps += solution.passes
            found.append(tried(task, f"C={c:.4g}", there @ weight.T.float() + bias, val, steps))
            problem.tell(found[-1].metrics.get("loss", 0.0))
            best = best_of(found, int(np.abs(np.log(self.values[: len(found)])).argmin()))
            if best == len(found) - 1:
                layer = (weight, bias)
            if self.patience is not None and found[-1].metrics and len(found) - 1 - best >= self.patience:
                break
        head = _filled(problem.head, *data.back(*layer))
        return Solved(head, found, best, steps, steps * len(train))


@dataclass
class _Fit:
    """What is brought to its minimum, and how a task's K outputs come from the k of it.

    Arguments:
        spread: float64 (K, k).
        bias: float64 (K,), added.
    """

    loss: Loss
    spread: Tensor
    bias: Tensor


def _of_classes(task: Classification, targets: Tensor) -> _Fit:
    n, smoothing = len(targets), task.label_smoothing
    one_hot = F.one_hot(targets, task.outputs).double()
    weights = torch.tensor(task.class_weights or [1.0] * task.outputs, dtype=torch.float64)
    soft = weights * ((1 - smoothing) * one_hot + smoothing / task.outputs) / n
    seen = soft.sum(0) > 0
    bias = torch.where(seen, 0.0, -float(np.log(n + 1))).double()
    soft, spread = soft[:, seen], torch.eye(task.outputs, dtype=torch.float64)[:, seen]
    if soft.shape[1] != 2:
        return _Fit(CrossEntropy(soft), spread, bias)
    shares = soft.sum(1, keepdim=True)  # of two classes, one number says all: the second against the first
    return _Fit(Binary(soft[:, 1:] / shares, shares), (spread[:, 1:] - spread[:, :1]) / 2, bias)


def _of_labels(targets: Tensor) -> _Fit:
    n, known = len(targets), ~targets.isnan()
    there = targets.nan_to_num().double()
    shares = known.double() / known.sum(1, keepdim=True) * targets.shape[1] / n  # each example weighs the same
    yes, no = (there * known).sum(0), ((1 - there) * known).sum(0)
    both = (yes > 0) & (no > 0)
    bias = torch.where(both, 0.0, ((yes + 0.5) / (no + 0.5)).log())
    spread = torch.eye(targets.shape[1], dtype=torch.float64)[:, both]
    return _Fit(Binary(there[:, both], shares[:, both]), spread, bias)


def _filled(head: nn.Module, weight: Tensor, bias: Tensor) -> nn.Module:
    assert isinstance(head, LinearHead)
    with torch.no_grad():
        head.linear.weight.copy_(weight)
        head.linear.bias.copy_(bias)
    return head
