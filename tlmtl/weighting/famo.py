"""`weighting=famo`: weights learned from how far each loss fell in a step.

TorchJD's `FAMO` takes a fixed number of losses and does not save its optimizer's state.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.tasks.base import Task
from tlmtl.weighting.base import Weighting, add_gradient, refuse_weights, values_of

EPSILON = 1e-8


class FAMO(Weighting):
    """sum_k c z_k log L_k with z = softmax(logits) and c = 1 / sum_k z_k / L_k, held constant: all losses should fall at about
    the same rate. After each step the logits follow, by Adam, how far log L_k fell on the same batch.

    Liu, Feng, Stone & Liu 2023, "FAMO: Fast Adaptive Multitask Optimization", algorithm 2, with lower bounds of 0. A step costs
    a second forward pass. The softmax runs over the tasks that a batch has. With `train.accumulate` each piece has a c of
    its own.

    Arguments:
        level: ignored, so that a sweep over weightings composes.
        lr: of the logits; 0.025 as in the paper.
        weight_decay: of the logits; 1e-3 as in the paper (its code has 1e-5).
    """

    looks_again = True

    def __init__(
        self, level: str = "loss", lr: float = 0.025, weight_decay: float = 1e-3, *, tasks: Mapping[str, Task]
    ) -> None:
        super().__init__()
        refuse_weights(tasks, "weighting=famo learns its weights")
        for key, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ConfigError(f"'weighting.{key}' of famo should be 0 or more. Found {value}.")
        self.index = {name: i for i, name in enumerate(tasks)}
        # Not an nn.Parameter: the run's optimizer must not train it. It stays on the CPU.
        self.logits = torch.zeros(len(tasks), requires_grad=True)
        self.adam = torch.optim.Adam([self.logits], lr, weight_decay=weight_decay)
        self.before: dict[str, Tensor] = {}  # this step's losses, each a scalar

    def begin_step(self) -> None:
        self.before = {}

    def backward(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None = None,
    ) -> dict[str, float]:
        values = values_of(losses)
        ratios = self._shares(list(losses)).detach() / (values + EPSILON)
        weights = ratios / ratios.sum()
        for name, value in zip(losses, values, strict=True):  # the pieces of a batch sum to its loss
            self.before[name] = self.before.get(name, 0) + value
        add_gradient(losses, weights, extra)
        return dict(zip(losses, weights.tolist(), strict=True))

    def after_step(self, losses_again: Mapping[str, Tensor]) -> None:
        names = [name for name in losses_again if name in self.before]
        if not names:
            return
        before = torch.stack([self.before[name] for name in names])
        after = values_of({name: losses_again[name] for name in names})
        fell = torch.log(before + EPSILON) - torch.log(after + EPSILON)
        with torch.enable_grad():
            (self.logits.grad,) = torch.autograd.grad(self._shares(names), self.logits, fell)
        self.adam.step()

    def _shares(self, names: Sequence[str]) -> Tensor:
        return torch.softmax(self.logits[[self.index[name] for name in names]], 0)

    def get_extra_state(self) -> dict[str, Any]:
        return {"logits": self.logits.detach().clone(), "adam": self.adam.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.logits.copy_(state["logits"])
        self.adam.load_state_dict(state["adam"])
