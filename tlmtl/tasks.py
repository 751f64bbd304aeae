"""Task kinds: the size of the head, the loss, what a constant predictor would reach, the metrics and their direction.

A task sees outputs and targets of one kind only; nothing else in the program looks inside a target.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tlmtl.errors import ConfigError, nearest

LOWER_IS_BETTER = {"loss", "mae", "mse"}


class Task(Protocol):
    name: str
    kind: str
    primary: bool
    weight: float
    metrics: list[str]  # the first is the main one

    @property
    def outputs(self) -> int:
        """Size of the head."""
        ...

    def encode(self, column: np.ndarray) -> tuple[Tensor, Tensor]:
        """Targets as the loss takes them, and which are there: (N,), bool (N,)."""
        ...

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Mean over the labelled examples: output (n, outputs), target (n,), mask bool (n,) -> scalar."""
        ...

    def constant_loss(self, target: Tensor) -> float:
        """The smallest loss on `target` (n,) that a predictor can reach that says the same for every input."""
        ...

    def own_unit(self, output: Tensor) -> Tensor:
        """What is stored as a prediction: class scores, or values in the target's own unit. (n, outputs)."""
        ...

    def measure(self, stored: Tensor, target: Tensor) -> dict[str, float]:
        """The task's metrics from stored predictions (n, outputs) and targets (n,) in the target's own unit."""
        ...

    def own_target(self, target: Tensor) -> Tensor:
        """Encoded targets (n,) back in the target's own unit."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a reader of the saved model needs to name its outputs."""
        ...


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


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
        return _masked_mean(F.cross_entropy(output.float(), target, reduction="none"), mask)

    def constant_loss(self, target: Tensor) -> float:
        share = torch.bincount(target, minlength=self.outputs).double() / len(target)
        return float(-(share * share.clamp(min=1e-12).log()).sum())

    def own_unit(self, output: Tensor) -> Tensor:
        return output.float()

    def own_target(self, target: Tensor) -> Tensor:
        return target

    def measure(self, stored: Tensor, target: Tensor) -> dict[str, float]:
        return {name: float(_classification_metric(name)(stored, target, self.outputs)) for name in self.metrics}

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "classes": self.classes, "metrics": self.metrics}


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
        return _masked_mean((output.float().squeeze(-1) - target) ** 2, mask)

    def constant_loss(self, target: Tensor) -> float:
        return float(target.double().var(correction=0))

    def own_unit(self, output: Tensor) -> Tensor:
        return output.float() * self.std + self.mean

    def own_target(self, target: Tensor) -> Tensor:
        return target * self.std + self.mean

    def measure(self, stored: Tensor, target: Tensor) -> dict[str, float]:
        return {name: float(_regression_metric(name)(stored.squeeze(-1), target.float())) for name in self.metrics}

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "mean": self.mean, "std": self.std, "metrics": self.metrics}


def _classification_metric(name: str) -> Callable[..., Tensor]:
    from torchmetrics.functional import classification as tm

    known: dict[str, Callable[..., Tensor]] = {
        "accuracy": lambda p, t, k: tm.multiclass_accuracy(p, t, k, average="micro"),
        "mean_class_accuracy": lambda p, t, k: tm.multiclass_accuracy(p, t, k, average="macro"),
        "macro_f1": lambda p, t, k: tm.multiclass_f1_score(p, t, k, average="macro"),
    }
    return known[name]


def _regression_metric(name: str) -> Callable[..., Tensor]:
    from torchmetrics.functional import regression as tm

    known: dict[str, Callable[..., Tensor]] = {
        "mae": tm.mean_absolute_error,
        "mse": tm.mean_squared_error,
        "r2": tm.r2_score,
    }
    return known[name]


KINDS = {  # kind -> the metrics it knows, and those it reports when the data set names none
    "classification": (["accuracy", "mean_class_accuracy", "macro_f1"], ["accuracy", "macro_f1"]),
    "regression": (["mae", "mse", "r2"], ["mae", "r2"]),
}


def make_task(name: str, settings: Any, train_column: np.ndarray, classes: list[str] | None) -> Task:
    """The task `name` of a data set.

    Arguments:
        settings: `dataset.tasks.<name>` (kind, metrics, primary, weight).
        train_column: the labels of the training split, for the scale of a regression.
        classes: the class names, for a column that has classes.

    Raises ConfigError for an unknown kind or metric, and for labels that the kind cannot be.
    """
    where, kind = f"dataset.tasks.{name}", settings.kind
    if kind not in KINDS:
        raise ConfigError(f"Unknown '{where}.kind={kind}'.{nearest(kind, list(KINDS))} Known: {', '.join(KINDS)}.")
    known, default = KINDS[kind]
    for metric in settings.metrics:
        if metric not in known:
            raise ConfigError(
                f"Unknown metric '{metric}' at '{where}.metrics'.{nearest(metric, known)} A {kind} has: {', '.join(known)}."
            )
    common = {"metrics": list(settings.metrics) or default, "primary": settings.primary, "weight": settings.weight}
    if kind == "classification":
        if classes is None:
            raise ConfigError(
                f"'{where}' is a classification, but its labels are numbers, not classes: kind=regression."
            )
        if len(classes) < 2:
            raise ConfigError(f"'{where}' needs two classes at least. Found {len(classes)}: {', '.join(classes)}.")
        return Classification(name, classes, **common)
    values = train_column[train_column >= 0] if classes is not None else train_column[np.isfinite(train_column)]
    if len(values) == 0:
        raise ConfigError(f"'{where}' has no label in the training split.")
    return Regression(name, float(values.mean()), float(values.std()) or 1.0, **common)
