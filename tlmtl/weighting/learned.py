"""`weighting=uncertainty` and `weighting=imtl_l`: weights that are parameters, trained with the model by its optimizer.

TorchJD has both (`UW`, `IMTLL`), but only for a fixed number of losses: a task may be absent from a batch here, and Kendall's
form for classification is not in its `UW`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tlmtl.tasks.base import Task
from tlmtl.tasks.reconstruction import Reconstruction
from tlmtl.tasks.regression import Regression
from tlmtl.weighting.base import Weighting, refuse_weights


class Uncertainty(Weighting):
    """sum_k of f_k exp(-s_k) L_k + p_k s_k, with s learned from 0: the negative log-likelihood of each task's noise.

    Kendall, Gal & Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics",
    eqs. 7 (regression) and 10 (classification). exp(s) is the variance sigma^2, for l1 the scale b. By a task's loss:

    - squared error (a regression with loss=mse, a reconstruction): f = p = 1/2, a Gaussian; best at exp(s) = L.
    - loss=huber: f = 1, p = 1/2, a Gaussian too, as the loss holds its 1/2 (beyond delta it is no likelihood); exp(s) = 2 L.
    - loss=l1: f = p = 1, a Laplace density, -log(exp(-|e| / b) / 2b) = |e| / b + log b + log 2; exp(s) = L.
    - any other, a cross-entropy: f = 1, p = 1/2; exp(s) = 2 L.

    A task that is absent from a step leaves its s as it is. With `train.accumulate`, p_k s_k counts once a step.

    Arguments:
        level: ignored, so that a sweep over weightings composes.
    """

    def __init__(self, level: str = "loss", *, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        refuse_weights(tasks, "weighting=uncertainty learns its weights")
        self.index = {name: i for i, name in enumerate(tasks)}
        self.log_variance = nn.Parameter(torch.zeros(len(tasks)))  # s, (K,); log b for l1
        factors, penalties = zip(*(_form(task) for task in tasks.values()), strict=True)
        self.register_buffer("factors", torch.tensor(factors), persistent=False)
        self.register_buffer("penalties", torch.tensor(penalties), persistent=False)
        self.penalised: set[str] = set()  # tasks whose p s has been added in this step

    def begin_step(self) -> None:
        self.penalised = set()

    def backward(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None = None,
    ) -> dict[str, float]:
        scale = self.get_buffer("factors") * torch.exp(-self.log_variance)
        new = [name for name in losses if name not in self.penalised]
        self.penalised.update(new)
        return _backward(losses, extra, scale, self.get_buffer("penalties") * self.log_variance, self.index, new)


def _form(task: Task) -> tuple[float, float]:
    """f and p of `Uncertainty`."""
    if isinstance(task, Reconstruction):
        return 0.5, 0.5
    if isinstance(task, Regression):
        return {"mse": (0.5, 0.5), "l1": (1.0, 1.0), "huber": (1.0, 0.5)}[task.loss_name]
    return 1.0, 0.5


class IMTLL(Weighting):
    """sum_k of exp(s_k) L_k - s_k, with s learned from 0: every exp(s_k) L_k is drawn to 1.

    Liu et al. 2021, "Towards Impartial Multi-task Learning", the loss balance (IMTL-L). Losses should be positive. What is
    said of absent tasks and pieces of a batch at `Uncertainty` holds here.

    Arguments:
        level: ignored, so that a sweep over weightings composes.
    """

    def __init__(self, level: str = "loss", *, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        refuse_weights(tasks, "weighting=imtl_l learns its weights")
        self.index = {name: i for i, name in enumerate(tasks)}
        self.log_scale = nn.Parameter(torch.zeros(len(tasks)))  # s, (K,)
        self.penalised: set[str] = set()

    def begin_step(self) -> None:
        self.penalised = set()

    def backward(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None = None,
    ) -> dict[str, float]:
        new = [name for name in losses if name not in self.penalised]
        self.penalised.update(new)
        return _backward(losses, extra, torch.exp(self.log_scale), -self.log_scale, self.index, new)


def _backward(
    losses: Mapping[str, Tensor],
    extra: Tensor | None,
    scale: Tensor,
    penalty: Tensor,
    index: Mapping[str, int],
    penalised: Sequence[str],
) -> dict[str, float]:
    """One backward pass of sum_k scale_k L_k + sum of penalty_k over `penalised` + extra. Returns the scales."""
    parts = [] if extra is None else [extra]
    found: dict[str, float] = {}
    if losses:
        stacked = torch.stack(list(losses.values()))
        chosen = _of(scale, losses, index)
        parts += [(chosen * stacked).sum(), _of(penalty, penalised, index).sum()]
        found = dict(zip(losses, chosen.tolist(), strict=True))
    if parts:
        torch.stack(parts).sum().backward()
    return found


def _of(values: Tensor, names: Mapping[str, Tensor] | Sequence[str], index: Mapping[str, int]) -> Tensor:
    """Those of `values` (K,) that belong to `names`, in their order."""
    wanted = [index[name] for name in names]
    return values if wanted == list(range(len(values))) else values[wanted]
