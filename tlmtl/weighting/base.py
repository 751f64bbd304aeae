"""The seam for how K task losses become one update."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


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
            shared: the parameters that all tasks share and that train now; may be empty.
            features: (n, D), the one tensor that all heads take, part of the losses' graph; None where there is no such.

        Returns the weight of each task, for the history.
        """
        raise NotImplementedError

    def after_step(self, losses_again: Mapping[str, Tensor]) -> None:
        """The losses of the same batch after the optimizer's step, by task, without a graph."""
