"""`kind: multilabel`: K independent yes-or-no labels."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tlmtl.errors import ConfigError
from tlmtl.tasks.base import masked_mean
from tlmtl.tasks.metrics import MULTILABEL


@dataclass
class Multilabel:
    """K labels (one or more), each there or not. Head (n, K), binary cross entropy averaged over the labels.

    Targets are float32 (n, K) of 0 and 1, NaN for what is not known. An example counts as missing when its whole row is
    NaN. Single unknown entries are left out one by one: an example's loss is the mean over the labels known of it, so
    that every example with a label weighs the same.
    """

    of_input: ClassVar[bool] = False

    name: str
    classes: list[str]
    metrics: list[str]
    primary: bool = True
    weight: float = 1.0
    kind: str = "multilabel"

    @property
    def outputs(self) -> int:
        return len(self.classes)

    def encode(self, column: np.ndarray) -> tuple[Tensor, Tensor]:
        """Raises ConfigError for a label other than 0, 1 and NaN."""
        target = torch.from_numpy(column.astype(np.float32))
        known = ~target.isnan()
        wrong = target[known & (target != 0) & (target != 1)]
        if len(wrong):
            raise ConfigError(
                f"Labels of 'dataset.tasks.{self.name}' (multilabel) should be 0, 1 or missing. Found {wrong[0]:g}."
            )
        return target, known.any(1)

    def training_loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return self.loss(output, target, mask)

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        each = F.binary_cross_entropy_with_logits(output.float(), target.nan_to_num(), reduction="none")
        return masked_mean((each * _shares(target).float()).sum(1), mask)

    def kept(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return output, target

    def constant_loss(self, target: Tensor) -> float:
        """The entropy of each label's base rate, averaged over the labels."""
        shares = _shares(target)
        total = shares.sum(0)
        rate = ((shares * target.nan_to_num()).sum(0) / total.clamp(min=1e-12)).clamp(max=1)
        entropy = F.binary_cross_entropy(rate, rate, reduction="none")
        return float((total * entropy).sum() / len(target))

    def own_unit(self, output: Tensor) -> Tensor:
        return output.float()

    def own_target(self, target: Tensor) -> Tensor:
        return target

    def measure(self, stored: Tensor, target: Tensor) -> dict[str, float]:
        """Means over the labels; a label that does not define a metric on these targets is left out of its mean."""
        found = {name: MULTILABEL[name](stored, target) for name in self.metrics}
        return {name: value for name, value in found.items() if value is not None}

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "classes": self.classes, "metrics": self.metrics}

    def explain(self, output: Tensor, top: int = 1) -> dict[str, list]:
        """The labels more likely there than not, joined by `;`, and a column `_<label>` with each one's probability."""
        shares = output.double().sigmoid()
        named = [
            ";".join(c for c, there in zip(self.classes, row, strict=True) if there) for row in (shares > 0.5).tolist()
        ]
        return {"": named, **{f"_{label}": shares[:, i].tolist() for i, label in enumerate(self.classes)}}


def _shares(target: Tensor) -> Tensor:
    """Float64 (n, K): what each label weighs in its example's loss; rows sum to 1, or to 0 where no label is known."""
    known = (~target.isnan()).double()
    return known / known.sum(1, keepdim=True).clamp(min=1)
