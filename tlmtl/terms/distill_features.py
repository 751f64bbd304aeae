"""`term=[distill_features]`: keep the features close to those of the source model."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlmtl.errors import ConfigError
from tlmtl.models.by_task import ByTask
from tlmtl.terms.base import Context, Needs, Step, Term
from tlmtl.terms.setup import blank_output

SHARED = "shared"  # the encoder of all tasks


class DistillFeatures(Term):
    """weight * distance(projection(features), features of the frozen source model).

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3 ("mse"; theirs sums over the features, this is the mean);
    "cosine" is 1 - the cosine similarity. Both are means over the examples of the batch, over all streams. Where tasks have
    encoders of their own, it is the sum over the encoders, each with a projection of its own: what separate runs would have.

    Arguments:
        weight: 0 or more.
        loss: "mse" or "cosine".
        projection: a learned linear map before the comparison, so that the features may turn as long as they keep what
            the source's hold.
    """

    needs = Needs(source_model=True)

    def __init__(self, weight: float = 1.0, loss: str = "mse", projection: bool = False) -> None:
        super().__init__()
        if loss not in ("mse", "cosine"):
            raise ConfigError(f"'loss' of distill_features should be mse or cosine. Found '{loss}'.")
        if weight < 0:
            raise ConfigError(f"'weight' of distill_features should not be negative. Found {weight}.")
        self.weight, self.loss, self.projection = weight, loss, projection
        self.projections = ByTask({})  # by the task whose encoder it follows

    def setup(self, context: Context) -> None:
        if not context.from_source:
            raise ConfigError(
                "The term distill_features needs a source model, but nothing is initialised from a source."
            )
        if self.projection:
            size = context.encoder.feature_size
            self.projections = ByTask({name: _identity(size) for name in blank_output(context).own or (SHARED,)})

    def forward(self, step: Step) -> Tensor:
        mine: dict[str, list[Tensor]] = {}  # by encoder, the features of each stream that it saw
        theirs: dict[str, list[Tensor]] = {}
        for stream, output in step.outputs.items():
            for name, encoded in (output.own or {SHARED: output}).items():
                mine.setdefault(name, []).append(encoded.features.float())
                theirs.setdefault(name, []).append(step.source_outputs[stream].features.float())
        total = torch.zeros((), device=next(step.model.parameters()).device)
        for name in mine:
            total = total + self._distance(self._projected(name, torch.cat(mine[name])), torch.cat(theirs[name]))
        return self.weight * total

    def _projected(self, name: str, features: Tensor) -> Tensor:
        return self.projections[name](features) if self.projection else features

    def _distance(self, mine: Tensor, theirs: Tensor) -> Tensor:
        if self.loss == "mse":
            return F.mse_loss(mine, theirs)
        return (1 - F.cosine_similarity(mine, theirs, dim=1)).mean()


def _identity(size: int) -> nn.Module:
    linear = nn.Linear(size, size, bias=False)
    nn.init.eye_(linear.weight)  # starts as no map at all
    return linear
