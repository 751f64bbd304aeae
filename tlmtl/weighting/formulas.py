"""`weighting=rlw`, `gls` and `stch`: weights that follow from a step's losses, or from chance, by a formula.

TorchJD has all three, as scalarizers. They are here too because each is a line, because these need no extra, and because a loss
of exactly 0 gives its geometric mean a gradient that is not a number.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError, TrainingError
from tlmtl.tasks.base import Task
from tlmtl.weighting.base import Weighting, add_gradient, refuse_weights, values_of

TINY = 1e-12


class RLW(Weighting):
    """sum_k w_k L_k with w = softmax of K standard normal numbers, drawn anew at each step.

    Lin et al. 2022, "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning", algorithm 1 (the
    normal distribution of its experiments). They sum to 1, over the tasks that a batch has. They are drawn from torch's global
    generator, whose state a checkpoint holds, and a batch that is divided keeps them.

    Arguments:
        level: ignored, so that a sweep over weightings composes.
    """

    def __init__(self, level: str = "loss", *, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        refuse_weights(tasks, "weighting=rlw draws its weights")
        self.index = {name: i for i, name in enumerate(tasks)}
        self.drawn = torch.zeros(len(tasks))

    def begin_step(self) -> None:
        self.drawn = torch.randn(len(self.index))  # on the CPU: the same numbers on every device

    def backward(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None = None,
    ) -> dict[str, float]:
        weights = torch.softmax(self.drawn[[self.index[name] for name in losses]], 0)
        add_gradient(losses, weights, extra)
        return dict(zip(losses, weights.tolist(), strict=True))


class GLS(Weighting):
    """The geometric mean of the K losses that a batch has, (prod_k L_k)^(1/K).

    Chennupati et al. 2019, "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task Learning",
    eq. 4. The weight of a task is the mean's derivative, mean / (K L_k); a loss below 1e-12 counts as that and has none.

    Arguments:
        level: ignored, so that a sweep over weightings composes.
    """

    def __init__(self, level: str = "loss", *, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        refuse_weights(tasks, "weighting=gls is the geometric mean of the losses, whose direction no factor changes")

    def backward(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None = None,
    ) -> dict[str, float]:
        """Raises TrainingError for a negative loss."""
        values = values_of(losses)
        for name, value in zip(losses, values.tolist(), strict=True):
            if value < 0:
                raise TrainingError(f"weighting=gls takes losses of 0 or more. That of task '{name}' is {value}.")
        mean = values.clamp(min=TINY).log().mean().exp()
        weights = torch.where(values < TINY, 0.0, mean / (len(losses) * values.clamp(min=TINY)))
        add_gradient(losses, weights, extra)
        return dict(zip(losses, weights.tolist(), strict=True))


class STCH(Weighting):
    """A smooth maximum of the losses, mu log sum_k exp(p_k L_k / mu): the worst tasks weigh most.

    Lin et al. 2024, "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", eq. 5 with the ideal point 0. The
    preferences p_k are `dataset.tasks.<k>.weight`, scaled to sum to 1 over the tasks that a batch has (the paper's uniform ones
    by default). The weight of a task is p_k softmax(p L / mu)_k, so the weights sum to 1 or less.

    Arguments:
        level: ignored, so that a sweep over weightings composes.
        mu: above 0; the smaller, the nearer to the maximum.
    """

    def __init__(self, level: str = "loss", mu: float = 1.0, *, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        if not mu > 0:
            raise ConfigError(f"'weighting.mu' of stch should be above 0. Found {mu}.")
        self.mu = mu
        self.preferences = {name: float(task.weight) for name, task in tasks.items()}
        if any(weight <= 0 for weight in self.preferences.values()):
            raise ConfigError(f"weighting=stch takes weights of tasks above 0. Found {self.preferences}.")

    def backward(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None = None,
    ) -> dict[str, float]:
        preferences = torch.tensor([self.preferences[name] for name in losses])
        preferences = preferences / preferences.sum()
        weights = preferences * torch.softmax(preferences * values_of(losses) / self.mu, 0)
        add_gradient(losses, weights, extra)
        return dict(zip(losses, weights.tolist(), strict=True))
