"""`weighting=sum` and `weighting=static`: one backward pass of a sum with weights that never change."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.tasks.base import Task
from tlmtl.weighting.base import Weighting


class Static(Weighting):
    """sum_k w_k L_k, with w_k = `dataset.tasks.<k>.weight`.

    Arguments:
        level: ignored, so that a sweep over weightings composes.
        tasks: the run's tasks.
    """

    def __init__(self, level: str = "loss", *, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        self.weights = {name: task.weight for name, task in tasks.items()}
        if any(weight < 0 for weight in self.weights.values()) or not any(self.weights.values()):
            raise ConfigError(f"Weights of tasks should not be negative, and not all zero. Found {self.weights}.")

    def backward(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None = None,
    ) -> dict[str, float]:
        weighted = [self.weights[name] * loss for name, loss in losses.items()] + ([] if extra is None else [extra])
        if weighted:
            torch.stack(weighted).sum().backward()
        return {name: self.weights[name] for name in losses}


class Sum(Weighting):
    """sum_k L_k. A task's weight other than 1 is refused rather than passed over."""

    def __init__(self, level: str = "loss", *, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        weights = {name: task.weight for name, task in tasks.items() if task.weight != 1}
        if weights:
            named = ", ".join(f"dataset.tasks.{name}.weight={weight}" for name, weight in weights.items())
            raise ConfigError(f"weighting=sum gives every task the weight 1. Found {named}: use weighting=static.")

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
