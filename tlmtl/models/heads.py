"""From features to one task's output."""

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError

INITS = ("near_zero", "default")


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
