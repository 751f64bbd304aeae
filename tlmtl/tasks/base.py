"""What a task is, whatever its kind. A task sees outputs and targets of its own kind only; nothing else in the program
looks inside a target."""

from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor


class Task(Protocol):
    """One thing to predict. Targets are (n,), for a multilabel task (n, K), for a reconstruction the input (n, C, H, W);
    `mask` tells which examples have one."""

    of_input: ClassVar[bool]  # whether the target is the input itself, so that there is no column to encode

    name: str
    kind: str
    primary: bool
    weight: float
    metrics: list[str]  # the first is the main one

    @property
    def outputs(self) -> int:
        """How many numbers are kept of a prediction: the size of the head, but for a reconstruction."""
        ...

    def encode(self, column: np.ndarray) -> tuple[Tensor, Tensor]:
        """Targets as the loss takes them, (N,) or (N, K), and which are there: bool (N,)."""
        ...

    def training_loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """What a step minimises: `loss`, smoothed where the task says so (`label_smoothing`). Arguments as `loss` has them."""
        ...

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Mean over the labelled examples: output (n, outputs), target (n,) or (n, K), mask bool (n,) -> scalar.

        Parts of a batch, each weighed by its number of labelled examples, give the loss of the whole. 0 without a label.
        Also takes what `kept` returned.
        """
        ...

    def kept(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """What evaluation keeps of a batch's outputs and targets: both, or, for a reconstruction, the few numbers of each
        image that loss and metrics are made of."""
        ...

    def constant_loss(self, target: Tensor) -> float:
        """The smallest loss on `target` (n,) or (n, K) that a predictor can reach that says the same for every input."""
        ...

    def own_unit(self, output: Tensor) -> Tensor:
        """What is stored as a prediction: scores of classes or labels (before softmax or sigmoid), or values in the
        target's own unit. (n, outputs)."""
        ...

    def measure(self, stored: Tensor, target: Tensor) -> dict[str, float]:
        """The task's metrics from stored predictions (n, outputs) and targets in the target's own unit.

        A metric that these targets do not define is left out.
        """
        ...

    def own_target(self, target: Tensor) -> Tensor:
        """Encoded targets back in the target's own unit."""
        ...

    def describe(self) -> dict[str, Any]:
        """What a reader of the saved model needs to name its outputs; `kinds.task_from` makes a task of it again."""
        ...

    def explain(self, output: Tensor, top: int = 1) -> dict[str, list]:
        """Columns of a table for people, each with n entries, by what is to be appended to the task's name.

        Arguments:
            output: (n, outputs), as `own_unit` gives it.
            top: how many of the likeliest classes a classification names; cut to the number there is, at least 1.
        """
        ...


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of `values` (n,) where `mask` (n,) holds; 0, without a gradient, where it holds nowhere."""
    return torch.where(mask.bool(), values, 0).sum() / mask.sum().clamp(min=1)
