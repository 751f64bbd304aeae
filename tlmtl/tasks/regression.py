"""`kind: regression`: one number."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tlmtl.tasks.base import masked_mean
from tlmtl.tasks.metrics import REGRESSION


@dataclass
class Regression:
    """One number. Head (n, 1), squared error on targets standardised by the training split's mean and deviation."""

    name: str
    mean: float
    std: float
    metrics: list[str]
    primary: bool = True
    weight: float = 1.0
    kind: str = "regression"

    @property
    def outputs(self) -> int:
        return 1

    def encode(self, column: np.ndarray) -> tuple[Tensor, Tensor]:
        target = torch.from_numpy(column.astype(np.float64))
        there = target.isfinite()
        return ((target.nan_to_num(self.mean) - self.mean) / self.std).float(), there

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return masked_mean((output.float().squeeze(-1) - target) ** 2, mask)

    def constant_loss(self, target: Tensor) -> float:
        return float(target.double().var(correction=0))

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
