"""From features to one task's output: a linear head or a small network; for a reconstruction, a decoder."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.models.decoder import Decoder
from tlmtl.models.neighbours import NeighbourHead
from tlmtl.tasks.base import Task

INITS = ("near_zero", "default")


def make_head(task: Task, features: int, shape: Sequence[int], settings: Any) -> nn.Module:
    """The head of a task: features (n, D) -> (n, outputs), or (n, C, H, W) where the target is the input.

    Arguments:
        features: D.
        shape: (C, H, W) of an input as the backbone takes it.
        settings: `head` (`schema.Head`): `init`, `dropout`, `hidden`. A decoder reads none of them.

    Raises ConfigError for a setting out of range.
    """
    if task.of_input:
        return Decoder(features, shape)
    if not settings.hidden:
        return LinearHead(features, task.outputs, settings.init, settings.dropout)
    return MLPHead(features, task.outputs, list(settings.hidden), settings.init, settings.dropout)


def head_as(about: Mapping[str, Any], task: Task, features: int, examples: int) -> NeighbourHead:
    """The head, still without what it stores, that its `describe` told of: one that `make_head` does not make.

    Arguments:
        features: D.
        examples: how many are stored.

    Raises ValueError for what no run writes.
    """
    k: Any = about.get("k")
    numbers: list[Any] = [about.get(key) for key in ("temperature", "smoothing")]
    right = isinstance(k, int) and all(isinstance(one, float | int) for one in numbers)
    if about.get("kind") == NeighbourHead.kind and right and 1 <= k <= examples and min(numbers) > 0:
        return NeighbourHead(task, examples, features, k, *numbers)
    raise ValueError(f"its head of {task.name}, with {examples} examples, cannot be as it says: {dict(about)!r}")


class LinearHead(nn.Module):
    """Features (n, D) -> output (n, K): dropout, then a linear layer.

    Arguments:
        init: "near_zero" (normal weights of standard deviation 0.01, zero bias: a new head starts by saying nothing, so
            that it does not disturb the source parameters in the first steps) or "default" (torch's own).
        dropout: probability in [0, 1) with which a feature is dropped in training.
    """

    def __init__(self, features: int, outputs: int, init: str = "near_zero", dropout: float = 0.0) -> None:
        super().__init__()
        if init not in INITS:
            raise ConfigError(f"'head.init' should be {' or '.join(INITS)}. Found '{init}'.")
        if not 0 <= dropout < 1:
            raise ConfigError(
                f"'head.dropout' should be a probability from 0 up to, not including, 1. Found {dropout}."
            )
        self.dropout, self.linear = nn.Dropout(dropout), nn.Linear(features, outputs)
        if init == "near_zero":
            with torch.no_grad():
                self.linear.weight.normal_(std=0.01)
                self.linear.bias.zero_()

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.dropout(features))


class MLPHead(nn.Module):
    """Features (n, D) -> output (n, K): dropout, linear and ReLU for each of the `hidden` sizes, then a `LinearHead`, which
    `init` is for; hidden layers have torch's own initial values.

    Arguments:
        hidden: sizes of the hidden layers, each 1 or more.
        init, dropout: see `LinearHead`; every linear layer has its dropout before it.
    """

    def __init__(
        self, features: int, outputs: int, hidden: Sequence[int], init: str = "near_zero", dropout: float = 0.0
    ) -> None:
        super().__init__()
        if any(size < 1 for size in hidden):
            raise ConfigError(f"'head.hidden' should list sizes of 1 or more, such as [128]. Found {list(hidden)}.")
        self.last = LinearHead(hidden[-1] if hidden else features, outputs, init, dropout)
        sizes = [features, *hidden]
        layers = [
            layer for one, other in pairwise(sizes) for layer in (nn.Dropout(dropout), nn.Linear(one, other), nn.ReLU())
        ]
        self.hidden = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        return self.last(self.hidden(features))
