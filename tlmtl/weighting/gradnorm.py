"""`weighting=gradnorm`: weights learned so that the tasks' gradients have norms that suit how fast each task trains."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.tasks.base import Task
from tlmtl.weighting.base import Weighting, add_gradient, refuse_weights
from tlmtl.weighting.gradients import check_level, rows_at_features


class GradNorm(Weighting):
    """sum_k w_k L_k. The w, learned from 1 with the model, follow the gradient of sum_k |G_k - mean(G) r_k^alpha|: G_k is the
    norm of the gradient of w_k L_k, r_k = (L_k / L_k at the start) / mean of these; the second part is held constant. Before
    each step they are scaled to sum to K.

    Chen et al. 2018, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks", eq. 2 and
    algorithm 1. Deviations: a weight that would fall below 0 is 0 (the paper says nothing of it); the run's optimizer and its
    rate train w (the paper: 0.025 for all); a task that is absent keeps its weight, and means run over those present. With
    `train.accumulate` the pieces' gradients for w are summed.

    Arguments:
        alpha: how hard slow tasks are pulled up; 0 makes all norms equal. 1.5 as in the paper's NYUv2 experiments.
        level: where norms are taken: "parameters", as in the paper, at the last shared layer (the last weight matrix or kernel
            of those that train); or "features", at the tensor that all heads take.
    """

    scalar = False  # the level matters

    def __init__(self, alpha: float = 1.5, level: str = "parameters", *, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        refuse_weights(tasks, "weighting=gradnorm learns its weights")
        if not alpha >= 0:
            raise ConfigError(f"'weighting.alpha' of gradnorm should be 0 or more. Found {alpha}.")
        self.alpha, self.level = alpha, check_level(level)
        self.index = {name: i for i, name in enumerate(tasks)}
        self.weights = nn.Parameter(torch.ones(len(tasks)))
        self.start: dict[str, float] = {}  # the first loss of each task

    def begin_step(self) -> None:
        with torch.no_grad():
            self.weights.clamp_(min=0)
            if not self.weights.any():
                self.weights.fill_(1)
            self.weights.mul_(len(self.index) / self.weights.sum())

    def backward(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None = None,
    ) -> dict[str, float]:
        chosen = torch.tensor([self.index[name] for name in losses], dtype=torch.long, device=self.weights.device)
        weights = self.weights.detach()[chosen]
        if len(losses) > 1 and (norms := self._norms(losses, shared, features)) is not None:
            values = torch.stack([loss.detach() for loss in losses.values()])
            for name, value in zip(losses, values.tolist(), strict=True):
                self.start.setdefault(name, value)
            fallen = values / values.new_tensor([self.start[name] for name in losses]).clamp(min=1e-12)
            rates = fallen / fallen.mean().clamp(min=1e-12)
            wanted = (weights * norms).mean() * rates**self.alpha
            slope = torch.zeros_like(self.weights).index_copy(0, chosen, torch.sign(weights * norms - wanted) * norms)
            self.weights.grad = slope if self.weights.grad is None else self.weights.grad + slope
        add_gradient(losses, weights, extra)
        return dict(zip(losses, weights.tolist(), strict=True))

    def _norms(
        self, losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter], features: Tensor | None
    ) -> Tensor | None:
        """Norms of the gradients of the unweighted losses, (K,); None where nothing shared trains."""
        if self.level == "features":
            rows = rows_at_features(losses, shared, features)
            return None if rows is None else rows.norm(dim=1)
        if not shared:
            return None
        last = [p for p in shared if p.ndim > 1][-1:] or [shared[-1]]
        found = [torch.autograd.grad(x, last, retain_graph=True, allow_unused=True)[0] for x in losses.values()]
        return torch.stack([last[0].new_zeros(()) if g is None else g.float().norm() for g in found])

    def get_extra_state(self) -> dict[str, Any]:
        return {"start": self.start}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.start = dict(state["start"])
