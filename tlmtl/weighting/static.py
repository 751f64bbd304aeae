"""`weighting=sum` and `weighting=static`: one backward pass of a sum with weights that never change."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError, nearest
from tlmtl.tasks.base import Task
from tlmtl.weighting.base import Weighting, add_gradient, refuse_weights


class Static(Weighting):
    """sum_k w_k L_k.

    Arguments:
        level: ignored, so that a sweep over weightings composes.
        weights: 0 or more, not all 0: a list in the order of the run's tasks, or task -> weight; null takes
            `dataset.tasks.<k>.weight`.
        tasks: the run's tasks.
    """

    def __init__(
        self,
        level: str = "loss",
        weights: list[float] | dict[str, float] | None = None,
        *,
        tasks: Mapping[str, Task],
    ) -> None:
        super().__init__()
        self.weights = {name: task.weight for name, task in tasks.items()}
        if weights is not None:
            refuse_weights(tasks, "'weighting.weights' stands in place of the data set's, so that only one can be set")
            self.weights = _by_task(weights, list(tasks))
        if any(weight < 0 for weight in self.weights.values()) or not any(self.weights.values()):
            raise ConfigError(f"Weights of tasks should not be negative, and not all zero. Found {self.weights}.")

    def backward(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None = None,
    ) -> dict[str, float]:
        chosen = {name: self.weights[name] for name in losses}
        add_gradient(losses, torch.tensor(list(chosen.values())), extra)
        return chosen


def _by_task(weights: Any, tasks: list[str]) -> dict[str, float]:
    """`weighting.weights` by task. Raises ConfigError unless there is a number for each task and nothing else."""
    where = "'weighting.weights'"
    if isinstance(weights, Mapping):
        for name in weights:
            if name not in tasks:
                known = f"This run's tasks are {', '.join(tasks)}."
                raise ConfigError(f"{where} names an unknown task '{name}'.{nearest(str(name), tasks)} {known}")
        if missing := [name for name in tasks if name not in weights]:
            raise ConfigError(f"{where} should have a weight for each task. There is none for {', '.join(missing)}.")
        found = {name: weights[name] for name in tasks}
    elif isinstance(weights, list | tuple):
        if len(weights) != len(tasks):
            which = "more" if len(weights) > len(tasks) else "fewer"
            raise ConfigError(
                f"{where} has {which} weights than tasks: {len(weights)} for {len(tasks)}. Expected one for each of "
                f"{', '.join(tasks)}, in this order."
            )
        found = dict(zip(tasks, weights, strict=True))
    else:
        raise ConfigError(f"{where} should be a list, a mapping from task to weight, or null. Found {weights!r}.")
    for name, weight in found.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
            raise ConfigError(f"{where} should hold numbers. Found {weight!r} for the task '{name}'.")
    return {name: float(weight) for name, weight in found.items()}


class Sum(Weighting):
    """sum_k L_k. A task's weight other than 1 is refused rather than passed over."""

    def __init__(self, level: str = "loss", *, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        refuse_weights(tasks, "weighting=sum gives every task the weight 1")

    def backward(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None = None,
    ) -> dict[str, float]:
        parts = [*losses.values(), *([] if extra is None else [extra])]
        if parts:
            torch.stack(parts).sum().backward()
        return dict.fromkeys(losses, 1.0)
