"""Experts and gates, which `mmoe` and `ple` are made of."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.sharing.base import fresh

MOST = 1000  # a config may be a stranger's


def experts(name: str, count: int, size: int, hidden: int) -> nn.ModuleList:
    """`count` experts (n, size) -> (n, size): two layers with ReLU after each, `hidden` units between them."""

    def make() -> nn.Sequential:
        return nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, size), nn.ReLU())

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
