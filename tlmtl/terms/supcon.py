"""`term=[supcon]`: features of one class close together, those of others apart."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlmtl.errors import ConfigError
from tlmtl.models.by_task import ByTask
from tlmtl.sharing.base import fresh
from tlmtl.tasks.base import masked_mean
from tlmtl.terms.base import Context, Step, Term
from tlmtl.terms.setup import blank_output, chosen_tasks


class SupCon(Term):
    """weight * the sum over classification tasks of the supervised contrastive loss of the features.

    Khosla et al. 2020, "Supervised Contrastive Learning", eq. 2 (L_out, which sums over the positives outside the
    logarithm). With z the projected features scaled to length 1, P(i) the other examples of anchor i's class and A(i) all
    others:

        mean over i with a P(i) of   -1/|P(i)| sum_{p in P(i)} log( exp(z_i z_p / T) / sum_{a in A(i)} exp(z_i z_a / T) )

    Theirs is the sum over the anchors, and each image is there in two augmented views; here it is the mean, so that it
    doesn't grow with the batch, and one view, so that an anchor whose class is alone in the batch gives nothing. An example
    without a label is no anchor, no positive and no negative. Like task losses, those of several tasks are summed, not
    averaged. With `train.accumulate`, an anchor sees its piece of the batch only.

    Arguments:
        weight: 0 or more.
        temperature: T, above 0.
        projection: outputs of a learned two-layer projection of each task (D -> D -> projection), which only this loss
            uses; None contrasts the features themselves.
        tasks: None for all classifications, or a list of names.
    """

    def __init__(
        self,
        weight: float = 0.1,
        temperature: float = 0.1,
        projection: int | None = 128,
        tasks: list[str] | None = None,
    ) -> None:
        super().__init__()
        if weight < 0:
            raise ConfigError(f"'weight' of supcon should not be negative. Found {weight}.")
        if not temperature > 0:
            raise ConfigError(f"'temperature' of supcon should be above 0. Found {temperature}.")
        if projection is not None and projection < 1:
            raise ConfigError(
                f"'projection' of supcon should be 1 or more outputs, or null for none. Found {projection}."
            )
        self.weight, self.temperature, self.projection, self.tasks = weight, temperature, projection, tasks
        self.projections = ByTask({})

    def setup(self, context: Context) -> None:
        offered = [name for name, task in context.tasks.items() if task.kind == "classification"]
        names = chosen_tasks("supcon", self.tasks, context.tasks, offered, "a classification")
        made: dict[str, nn.Module] = {name: nn.Identity() for name in names}
        if self.projection is not None:
            blank = blank_output(context)
            for name in names:
                made[name] = fresh(name, partial(_projection, blank.of(name).features.shape[1], self.projection))
        self.projections = ByTask(made)

    def forward(self, step: Step) -> Tensor:
        total = torch.zeros((), device=next(step.model.parameters()).device)
        for stream, output in step.outputs.items():
            part = step.batch[stream]
            for name, target in part.targets.items():
                if name in self.projections and name in output.heads:  # a task that has stopped is not asked any more
                    there = part.mask[name]
                    projected = self.projections[name](output.of(name).features[there].float())
                    total = total + contrastive_loss(projected, target[there], self.temperature)
        return self.weight * total


def _projection(size: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, outputs))


def contrastive_loss(features: Tensor, target: Tensor, temperature: float) -> Tensor:
    """The loss in `SupCon`'s docstring: features (n, D) of any length, classes (n,) -> scalar, 0 without two of one class."""
    if len(target) < 2:
        return features.sum() * 0
    z = F.normalize(features, dim=1)
    similar = z @ z.T / temperature  # (n, n)
    itself = torch.eye(len(target), dtype=torch.bool, device=target.device)
    positive = (target[:, None] == target) & ~itself
    others = similar.masked_fill(itself, -torch.inf).logsumexp(1)
    mean = (similar * positive).sum(1) / positive.sum(1).clamp(min=1)
    return masked_mean(others - mean, positive.any(1))
