"""The seam for how K task losses become one update."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn


class Weighting(nn.Module):
    """Fills `.grad` from the task losses. May own parameters or state, which are checkpointed.

    Class attribute `scalar` says that the update is that of one weighted loss, so that `level` does not matter.
    """

    scalar = True
    level = "loss"  # | "features" | "parameters"

    def backward(
        self, losses: Mapping[str, Tensor], extra: Tensor | None, shared: Sequence[nn.Parameter]
    ) -> dict[str, float]:
        """Add gradients of the losses to `.grad`.

        Arguments:
            losses: by task, scalars; a task that is absent from the batch is absent here.
            extra: the sum of the terms, a scalar, or None.
            shared: the parameters that all tasks share and that train now.

        Returns the weight of each task, for the history.
        """
        raise NotImplementedError

    def after_step(self, losses_again: Mapping[str, Tensor]) -> None:
        """For weightings that look at the losses after the step, too."""
