"""`term=[distill_features]`: keep the features close to those of the source model."""

from torch import Tensor, nn
from torch.nn import functional as F

from tlmtl.errors import ConfigError
from tlmtl.terms.base import Context, Needs, Step, Term


class DistillFeatures(Term):
    """weight * distance(projection(features), features of the frozen source model).

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", eq. 3 ("mse"; theirs sums over the features, this is the mean);
    "cosine" is 1 - the cosine similarity. Both are means over the batch.

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
        self.weight, self.loss = weight, loss
        self.projection: nn.Module = nn.Linear(1, 1) if projection else nn.Identity()

    def setup(self, context: Context) -> None:
        if not context.from_source:
            raise ConfigError(
                "The term distill_features needs a source model, but nothing is initialised from a source."
            )
        if isinstance(self.projection, nn.Linear):
            size = context.encoder.feature_size
            self.projection = nn.Linear(size, size, bias=False)
            nn.init.eye_(self.projection.weight)  # starts as no map at all

    def forward(self, step: Step) -> Tensor:
        mine = self.projection(step.outputs["target"].features.float())
        theirs = step.source_outputs["target"].features.float()
        if self.loss == "mse":
            return self.weight * F.mse_loss(mine, theirs)
        return self.weight * (1 - F.cosine_similarity(mine, theirs, dim=1)).mean()
