"""What the frozen part of a backbone gave for some inputs, in place of the inputs themselves."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Activations:
    """An input of a model that need not run the frozen part of its backbone (`encode` goes on from here).

    Arguments:
        values: (n, D) features, or the map (n, C, h, w) where the backbone is cut.
        rest: from a backbone and such a map to its features (n, D); None where the values are the features.
    """

    values: Tensor
    rest: Callable[[nn.Module, Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, where: Any) -> "Activations":
        return replace(self, values=self.values[where])

    def to(self, *args: Any, memory_format: torch.memory_format | None = None, **kwargs: Any) -> "Activations":
        """As a tensor's `to`; a memory format is for maps alone."""
        if self.values.ndim == 4 and memory_format is not None:
            kwargs["memory_format"] = memory_format
        return replace(self, values=self.values.to(*args, **kwargs))

    def is_floating_point(self) -> bool:
        return self.values.is_floating_point()

    def through(self, backbone: nn.Module) -> Tensor:
        """The features (n, D) that `backbone` makes of these values."""
        return self.values if self.rest is None else self.rest(backbone, self.values)
