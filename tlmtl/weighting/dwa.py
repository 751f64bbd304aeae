"""`weighting=dwa`: tasks whose losses fall slowly weigh more.

TorchJD's `DWA` saves no state, cannot miss a task and does not know when an epoch ends.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.tasks.base import Task
from tlmtl.weighting.base import Weighting, add_gradient, refuse_weights, values_of


class DWA(Weighting):
    """sum_k w_k L_k with w_k = K exp(r_k / T) / sum_i exp(r_i / T), r_k the mean loss of the last epoch over that of the one
    before; w = 1 in the first two epochs.

    Liu, Johns & Davison 2019, "End-to-End Multi-Task Learning with Attention", eq. 7 (dynamic weight average).

    An epoch in which a task has no loss leaves its two means as they are; until it has two, its r is 1, the rate of a loss that
    does not move.

    Arguments:
        level: ignored, so that a sweep over weightings composes.
        temperature: T, above 0; the larger, the more equal the weights. 2 as in the paper.
        steps_per_epoch: how many steps make an epoch.
    """

    def __init__(
        self, level: str = "loss", temperature: float = 2.0, *, tasks: Mapping[str, Task], steps_per_epoch: int
    ) -> None:
        super().__init__()
        refuse_weights(tasks, "weighting=dwa finds its weights")
        if not temperature > 0:
            raise ConfigError(f"'weighting.temperature' of dwa should be above 0. Found {temperature}.")
        self.temperature, self.steps_per_epoch = temperature, steps_per_epoch
        self.steps = 0
        self.means: dict[str, list[float]] = {name: [] for name in tasks}  # of the last two epochs, the newer last
        self.sums: dict[str, float] = {}  # losses in this epoch, and in how many steps each task had one
        self.counts: dict[str, int] = {}
        self.met: set[str] = set()  # tasks with a loss in this step

    def begin_step(self) -> None:
        if self.steps and self.steps % self.steps_per_epoch == 0:
            for name, total in self.sums.items():
                self.means[name] = [*self.means[name], total / self.counts[name]][-2:]
            self.sums, self.counts = {}, {}
        self.steps += 1
        self.met = set()

    def backward(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None = None,
    ) -> dict[str, float]:
        weights = self._weights()
        chosen = {name: weights[name] for name in losses}
        add_gradient(losses, torch.tensor(list(chosen.values())), extra)
        for name, value in zip(
            losses, values_of(losses).tolist(), strict=True
        ):  # the pieces of a batch sum to its loss
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + (name not in self.met)
            self.met.add(name)
        return chosen

    def _weights(self) -> dict[str, float]:
        if not any(len(means) == 2 for means in self.means.values()):
            return dict.fromkeys(self.means, 1.0)
        rates = [means[1] / means[0] if len(means) == 2 and means[0] else 1.0 for means in self.means.values()]
        shares = torch.softmax(torch.tensor(rates, dtype=torch.float64) / self.temperature, 0)
        return dict(zip(self.means, (len(rates) * shares).tolist(), strict=True))

    def get_extra_state(self) -> dict[str, Any]:
        return {"steps": self.steps, "means": self.means, "sums": self.sums, "counts": self.counts}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.means = {name: list(means) for name, means in state["means"].items()}
        self.sums, self.counts = dict(state["sums"]), dict(state["counts"])
