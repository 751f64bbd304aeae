"""`kind: regression`: one number."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tlmtl.tasks.base import masked_mean
from tlmtl.tasks.metrics import REGRESSION

HALVINGS = 60  # of the interval that holds the best constant: more than a double can tell apart


@dataclass
class Regression:
    """One number. Head (n, 1), targets standardised by the training split's mean and deviation.

    Arguments:
        loss_name: of the standardised error e: mse (e^2), l1 (|e|, whose best constant is the median: for targets with
            outliers) or huber (e^2 / 2 up to `huber_delta`, a line beyond; Huber 1964).
        huber_delta: above 0, in standard deviations of the training split's targets.
    """

    of_input: ClassVar[bool] = False

    name: str
    mean: float
    std: float
    metrics: list[str]
    primary: bool = True
    weight: float = 1.0
    loss_name: str = "mse"
    huber_delta: float = 1.0
    kind: str = "regression"

    @property
    def outputs(self) -> int:
        return 1

    def encode(self, column: np.ndarray) -> tuple[Tensor, Tensor]:
        target = torch.from_numpy(column.astype(np.float64))
        there = target.isfinite()
        return ((torch.where(there, target, self.mean) - self.mean) / self.std).float(), there

    def training_loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return self.loss(output, target, mask)

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(self._each(output.float().squeeze(-1), target), mask)

    def _each(self, said: Tensor, target: Tensor) -> Tensor:
        if self.loss_name == "l1":
            return (said - target).abs()
        if self.loss_name == "huber":
            return F.huber_loss(said, target, reduction="none", delta=self.huber_delta)
        return (said - target) ** 2

    def kept(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return output, target

    def constant_loss(self, target: Tensor) -> float:
        """That of the mean (mse), of the median (l1), of the number where the Huber loss has no slope (bisected)."""
        values = target.double()
        if self.loss_name == "huber":
            best = self._without_slope(values)
        else:
            best = values.median() if self.loss_name == "l1" else values.mean()
        return float(self._each(best.expand_as(values), values).mean())

    def _without_slope(self, values: Tensor) -> Tensor:
        low, high = values.min(), values.max()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            rises = (middle - values).clamp(-self.huber_delta, self.huber_delta).sum() > 0
            low, high = torch.where(rises, low, middle), torch.where(rises, middle, high)
        return (low + high) / 2

    def own_unit(self, output: Tensor) -> Tensor:
        return output.double() * self.std + self.mean  # in double: a year or a temperature in K is far from zero

    def own_target(self, target: Tensor) -> Tensor:
        return target.double() * self.std + self.mean

    def measure(self, stored: Tensor, target: Tensor) -> dict[str, float]:
        return {name: float(REGRESSION[name](stored.squeeze(-1), target)) for name in self.metrics}

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "mean": self.mean, "std": self.std, "metrics": self.metrics}

    def explain(self, output: Tensor, top: int = 1) -> dict[str, list]:
        """The value."""
        return {"": output.squeeze(-1).tolist()}
