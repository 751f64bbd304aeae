"""`weighting=uncertainty` and `weighting=imtl_l`: weights that are parameters, trained with the model by its optimizer.

TorchJD has both (`UW`, `IMTLL`), but only for a fixed number of losses: a task may be absent from a batch here, and Kendall's
form for classification is not in its `UW`.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tlmtl.tasks.base import Task
from tlmtl.weighting.base import Weighting, refuse_weights

GAUSSIAN = ("regression", "reconstruction")  # kinds whose loss is a squared or absolute error


class Uncertainty(Weighting):
    """sum_k of exp(-s_k) L_k + s_k / 2, for a regression or reconstruction exp(-s_k) / 2 L_k + s_k / 2.

    Kendall, Gal & Cipolla 2018, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics",
    eqs. 7 (regression) and 10 (classification), with s = log sigma^2, learned from 0. Best at fixed losses is
    exp(s_k) = 2 L_k for a classification and L_k for a regression.

    A task that is absent from a step leaves its s as it is. With `train.accumulate`, s_k / 2 counts once a step.

    Arguments:
        level: ignored, so that a sweep over weightings composes.
    """

    def __init__(self, level: str = "loss", *, tasks: Mapping[str, Task]) -> None:
        super().__init__()
        refuse_weights(tasks, "weighting=uncertainty learns its weights")
        self.index = {name: i for i, name in enumerate(tasks)}
        self.log_variance = nn.Parameter(torch.zeros(len(tasks)))  # s, (K,)
        factors = [0.5 if task.kind in GAUSSIAN else 1.0 for task in tasks.values()]
        self.register_buffer("factors", torch.tensor(factors), persistent=False)
        self.penalised: set[str] = set()  # tasks whose s/2 has been added in this step

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
        return _backward(losses, extra, scale, self.log_variance / 2, self.index, new)


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
