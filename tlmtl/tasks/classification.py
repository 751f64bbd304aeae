"""`kind: classification`: one of K classes."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tlmtl.tasks.base import masked_mean
from tlmtl.tasks.metrics import CLASSIFICATION


@dataclass
class Classification:
    """One of K classes. Head (n, K), cross entropy, targets int64 (n,) with -1 for missing.

    With class weights the loss is sum_i w_i l_i / n, over n labelled examples, w_i being the weight of example i's class.
    torch divides by sum_i w_i instead, which changes with the batch: parts of a batch would not add up to it.

    `label_smoothing` (Szegedy et al. 2016, section 7) smooths the loss in training alone: a share of it, from 0 up to, not
    including, 1, is spread evenly over all classes of the target, as torch's `cross_entropy` does (with class weights, each
    class's part has its own). `loss` on validation stays the plain cross entropy, and `constant_loss` its constant, so that
    figures compare across degrees of smoothing and selection stays sound.
    """

    of_input: ClassVar[bool] = False

    name: str
    classes: list[str]
    metrics: list[str]
    primary: bool = True
    weight: float = 1.0
    class_weights: list[float] | None = None  # K of them, above 0; in training and evaluation alike
    label_smoothing: float = 0.0
    kind: str = "classification"

    @property
    def outputs(self) -> int:
        return len(self.classes)

    def encode(self, column: np.ndarray) -> tuple[Tensor, Tensor]:
        target = torch.from_numpy(column.astype(np.int64))
        return target.clamp(min=0), target >= 0

    def training_loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return self._cross_entropy(output, target, mask, self.label_smoothing)

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return self._cross_entropy(output, target, mask, 0.0)

    def _cross_entropy(self, output: Tensor, target: Tensor, mask: Tensor, smoothing: float) -> Tensor:
        if output.is_cpu and self.class_weights is None and not smoothing:
            # What `cross_entropy` is then, to the bit. Under vmap it would import sympy, for the time of 200 steps.
            shares = F.log_softmax(output.float(), 1)
            return masked_mean(-shares.gather(1, target.unsqueeze(1)).squeeze(1), mask)
        weights = None if self.class_weights is None else torch.tensor(self.class_weights, device=output.device)
        each = F.cross_entropy(output.float(), target, weights, reduction="none", label_smoothing=smoothing)
        return masked_mean(each, mask)

    def kept(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return output, target

    def constant_loss(self, target: Tensor) -> float:
        """That of each class's share of the examples' weight: their entropy, times the mean weight."""
        mass = torch.bincount(target, minlength=self.outputs).double()
        if self.class_weights is not None:
            mass *= torch.tensor(self.class_weights, dtype=torch.float64)
        share = mass / mass.sum()
        return float(-(share * share.clamp(min=1e-12).log()).sum() * mass.sum() / len(target))

    def own_unit(self, output: Tensor) -> Tensor:
        return output.float()

    def own_target(self, target: Tensor) -> Tensor:
        return target

    def measure(self, stored: Tensor, target: Tensor) -> dict[str, float]:
        found = {name: CLASSIFICATION[name](stored, target, self.outputs) for name in self.metrics}
        return {name: float(value) for name, value in found.items() if value is not None}

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
