"""`kind: classification`: one of K classes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tlmtl.tasks.base import masked_mean
from tlmtl.tasks.metrics import CLASSIFICATION


@dataclass
class Classification:
    """One of K classes. Head (n, K), cross entropy, targets int64 (n,) with -1 for missing."""

    name: str
    classes: list[str]
    metrics: list[str]
    primary: bool = True
    weight: float = 1.0
    kind: str = "classification"

    @property
    def outputs(self) -> int:
        return len(self.classes)

    def encode(self, column: np.ndarray) -> tuple[Tensor, Tensor]:
        target = torch.from_numpy(column.astype(np.int64))
        return target.clamp(min=0), target >= 0

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return masked_mean(F.cross_entropy(output.float(), target, reduction="none"), mask)

    def constant_loss(self, target: Tensor) -> float:
        share = torch.bincount(target, minlength=self.outputs).double() / len(target)
        return float(-(share * share.clamp(min=1e-12).log()).sum())

    def own_unit(self, output: Tensor) -> Tensor:
        return output.float()

    def own_target(self, target: Tensor) -> Tensor:
        return target

    def measure(self, stored: Tensor, target: Tensor) -> dict[str, float]:
        return {name: float(CLASSIFICATION[name](stored, target, self.outputs)) for name in self.metrics}

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "classes": self.classes, "metrics": self.metrics}

    def explain(self, output: Tensor, top: int = 1) -> dict[str, list]:
        """The likeliest class and its probability; then `_2`, `_2_probability` and so on."""
        shares, numbers = output.double().softmax(1).topk(min(max(top, 1), self.outputs))
        columns: dict[str, list] = {}
        for place in range(shares.shape[1]):
            rank = f"_{place + 1}" if place else ""
            columns[rank] = [self.classes[number] for number in numbers[:, place].tolist()]
            columns[f"{rank}_probability"] = shares[:, place].tolist()
        return columns
