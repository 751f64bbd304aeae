"""The seam for how K task losses become one update."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.tasks.base import Task


class Weighting(nn.Module):
    """Fills `.grad` from the task losses. May own parameters (an optimizer group of their own, at the base rate and without
    decay) or state; both are checkpointed (`state_dict`, `get_extra_state`).

    The program supplies what the constructor asks for by these names: `tasks` (by name, in order) and `steps_per_epoch`.

    Attributes:
        scalar: the update is that of one weighted loss, so that `level` does not matter.
        level: "loss", or where a gradient aggregator looks: at the "features" or at the shared "parameters".
        looks_again: wants `after_step`, for which the loop makes a second forward pass on the same batch.
    """

    scalar = True
    level = "loss"
    looks_again = False

    def begin_step(self) -> None:
        """The loop says so before the first piece of each step: what counts steps and epochs, or is due once a step however
        many pieces it has, goes by it."""

    def backward(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None = None,
    ) -> dict[str, float]:
        """Add gradients of the losses to `.grad`. With `train.accumulate` it is called for each piece of a batch in turn.

        Arguments:
            losses: by task, finite scalars; a task that is absent from the batch is absent here. May be empty.
            extra: the sum of the terms, a scalar, or None.
            shared: the parameters that several tasks share and that train now; may be empty.
            features: (n, D), the one tensor that all heads take, part of the losses' graph; None where there is no such.

        Returns the weight of each task, for the history.
        """
        raise NotImplementedError

    def after_step(self, losses_again: Mapping[str, Tensor]) -> None:
        """The losses of the same batch after the optimizer's step, by task, without a graph."""


def add_gradient(losses: Mapping[str, Tensor], weights: Tensor, extra: Tensor | None) -> None:
    """Add the gradient of sum_k w_k L_k + extra to `.grad`, in one backward pass.

    Arguments:
        weights: (K,), as many as losses and in their order.
    """
    parts = [] if extra is None else [extra]
    if losses:
        stacked = torch.stack(list(losses.values()))
        parts.append((weights.to(stacked) * stacked).sum())
    if parts:
        torch.stack(parts).sum().backward()


def values_of(losses: Mapping[str, Tensor]) -> Tensor:
    """The losses, float32 (K,), without a graph, on the CPU."""
    return torch.stack([loss.detach() for loss in losses.values()]).float().cpu() if losses else torch.zeros(0)


def refuse_weights(tasks: Mapping[str, Task], who: str) -> None:
    """Raises ConfigError for a task's weight other than 1, where a weighting would pass it over."""
    weights = {name: task.weight for name, task in tasks.items() if task.weight != 1}
    if weights:
        named = ", ".join(f"dataset.tasks.{name}.weight={weight}" for name, weight in weights.items())
        raise ConfigError(f"{who}. Found {named}: use weighting=static.")
