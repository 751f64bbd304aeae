"""Experts and gates, which `mmoe` and `ple` are made of."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.sharing.base import fresh

MOST = 1000  # a config may be a stranger's


def experts(name: str, count: int, size: int, hidden: int) -> nn.ModuleList:
    """`count` experts (n, size) -> (n, size): two layers with ReLU after each, `hidden` units between them.

    Initial values: He et al. 2015, so that features keep their size through several levels; with torch's own they shrink to a
    sixth (in square) at each layer, and heads that start near zero have nothing to learn from.
    """

    def make() -> nn.Sequential:
        first, second = nn.Linear(size, hidden), nn.Linear(hidden, size)
        for layer in (first, second):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())

    return nn.ModuleList(fresh(f"{name}/expert/{i}", make) for i in range(count))


class Gate(nn.Linear):
    """softmax(W x): features (n, size) -> weights (n, experts) that sum to 1 (Ma et al. 2018, section 4.2)."""

    def __init__(self, size: int, experts: int) -> None:
        super().__init__(size, experts, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).softmax(1)


def mix(weights: Tensor, outputs: Sequence[Tensor]) -> Tensor:
    """sum_e w_e x_e: weights (n, E), outputs of E experts (n, D) each -> (n, D)."""
    return (weights[:, :, None] * torch.stack(list(outputs), 1)).sum(1)


def check_count(key: str, value: int, least: int, most: int = MOST) -> None:
    if not least <= value <= most:
        raise ConfigError(f"'sharing.{key}' should be {least} to {most}. Found {value}.")
