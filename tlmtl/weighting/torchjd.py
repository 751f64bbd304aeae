"""Gradient aggregators: what TorchJD makes of the tasks' gradients, behind one adapter.

`weighting=upgrad`, `mgda`, `pcgrad`, `cagrad`, `nash_mtl`, `aligned_mtl`, `imtl_g`, `gradvac`, `fairgrad` and `config` are this
class with a name of `torchjd.aggregation`; so is any other of its aggregators that weighs rows and keeps no state.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError, TrainingError, nearest
from tlmtl.tasks.base import Task
from tlmtl.weighting.base import Weighting, add_gradient, refuse_weights
from tlmtl.weighting.gradients import (
    add_rows,
    check_level,
    rows_at_features,
    rows_at_parameters,
    through_features,
    weighted_at_parameters,
)


class TorchJD(Weighting):
    """The shared parameters get sum_k w_k g_k, g_k the gradient of L_k and w what the aggregator finds for these gradients;
    each head gets the plain gradient of its own loss. Terms are added as they are.

    Papers and formulas stand with the aggregators. Their scale is kept: PCGrad, GradVac and ConFIG start from the sum of the
    gradients, UPGrad, CAGrad and Aligned-MTL from their mean, MGDA's and IMTL-G's weights sum to 1, and Nash-MTL's vector is
    no longer than 1. So under an optimizer that heeds the scale (SGD) the rate of the backbone means something else.

    Tasks that are absent from a batch are dropped before aggregating; one task alone, or nothing shared that trains, makes it
    the plain sum. With `train.accumulate` each piece of a batch is aggregated by itself and the results are summed.

    Arguments:
        aggregator: the name of a class in torchjd.aggregation.
        level: where gradients are compared: at the "features" (one backward pass through the encoder, whatever K is; tasks must
            share one input and one feature tensor) or at the shared "parameters" (K passes).
        settings: its keywords.
        update_every: weights are found anew at every so many steps and kept in between, where a step costs one backward pass.
        tasks: the run's tasks.
    """

    scalar = False

    def __init__(
        self,
        aggregator: str,
        level: str = "parameters",
        settings: dict[str, Any] | None = None,
        update_every: int = 1,
        *,
        tasks: Mapping[str, Task],
    ) -> None:
        super().__init__()
        refuse_weights(tasks, f"The aggregator {aggregator} finds its own weights")
        if update_every < 1:
            raise ConfigError(f"'weighting.update_every' should be 1 step or more. Found {update_every}.")
        self.aggregator, self.level, self.update_every = aggregator, check_level(level), update_every
        if not isinstance(settings, Mapping | None):
            raise ConfigError(
                f"'weighting.settings' should be settings by name, {{NAME: VALUE, ...}}. Found {settings}."
            )
        self.settings = dict(settings or {})
        self.index = {name: i for i, name in enumerate(tasks)}
        self.made: dict[int, Any] = {}  # by number of tasks, where an aggregator must know it; else at 0
        self._aggregator(len(tasks), check=True)
        self.memory = _memory(aggregator, len(tasks))
        self.steps = 0
        self.kept: dict[str, float] = {}  # the weights that were found last

    def begin_step(self) -> None:
        self.steps += 1

    def backward(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None = None,
    ) -> dict[str, float]:
        trains = bool(shared) and (self.level == "parameters" or features is None or features.requires_grad)
        if not trains or len(losses) < 2:
            add_gradient(losses, torch.ones(len(losses)), extra)
            return dict.fromkeys(losses, 1.0)
        due = (self.steps - 1) % self.update_every == 0 or any(name not in self.kept for name in losses)
        if self.level == "features":
            weights = self._at_features(losses, extra, shared, features, due)
        else:
            weights = self._at_parameters(losses, extra, shared, due)
        found = dict(zip(losses, weights.tolist(), strict=True))
        if due:
            self.kept = found
        return found

    def _at_features(
        self,
        losses: Mapping[str, Tensor],
        extra: Tensor | None,
        shared: Sequence[nn.Parameter],
        features: Tensor | None,
        due: bool,
    ) -> Tensor:
        if due or features is None:  # without features this raises
            rows = rows_at_features(losses, shared, features)
            assert rows is not None and features is not None
            weights = self._weights(rows, list(losses))
            gradient = weights @ rows
        else:
            weights = torch.tensor([self.kept[name] for name in losses], device=features.device)
            stacked = torch.stack(list(losses.values()))
            (gradient,) = torch.autograd.grad((weights * stacked).sum(), features, retain_graph=True)
        through_features(losses, extra, features, gradient)
        return weights

    def _at_parameters(
        self, losses: Mapping[str, Tensor], extra: Tensor | None, shared: Sequence[nn.Parameter], due: bool
    ) -> Tensor:
        if due:
            rows = rows_at_parameters(losses, shared)
            weights = self._weights(rows, list(losses))
            add_rows(shared, weights @ rows)
        else:
            weights = torch.tensor([self.kept[name] for name in losses])
            weighted_at_parameters(losses, weights, shared)
        add_gradient({}, weights, extra)
        return weights

    def _weights(self, rows: Tensor, tasks: Sequence[str]) -> Tensor:
        """What the aggregator gives each row, (K,), for `rows` (K, P), those of `tasks`."""
        aggregator, at = self._aggregator(len(tasks)), [self.index[name] for name in tasks]
        if self.aggregator == "NashMTL":
            # It starts from the weights that it found last, 1 at first, which it does not save and has for a fixed number of
            # tasks. They are of degree -1 in the rows. Its solver fails where rows are small, and often where a start of 1 is
            # not above the solution: it gets rows of 30 on the average in place of ours.
            scale = rows.square().sum(1).mean().sqrt() / 30
            if not scale > 0:
                return torch.ones_like(rows[:, 0])
            aggregator.weighting.prvs_alpha = self.memory[at].numpy()
            with warnings.catch_warnings():  # its solver says once how the problem could be put better
                warnings.simplefilter("ignore")
                weights = aggregator.weighting(rows / scale) / scale
            self.memory[at] = torch.from_numpy(aggregator.weighting.prvs_alpha).double()
        elif self.aggregator == "GradVac":
            # Likewise its targets for the tasks' cosines.
            inner, pairs = aggregator.gramian_weighting, (torch.tensor(at).unsqueeze(1), torch.tensor(at))
            inner._phi_t, inner._state_key = self.memory[pairs], (len(tasks), torch.float32)
            weights = inner(_gramian(rows))
            self.memory[pairs] = inner._phi_t
        elif self.aggregator == "FairGrad" and aggregator.alpha > 0:
            weights = _fair(aggregator, (rows @ rows.T).cpu().double())
        elif hasattr(aggregator, "gramian_weighting"):
            weights = aggregator.gramian_weighting(_gramian(rows))
        elif self.aggregator == "ConFIG":  # the one that gives a vector alone
            weights = _solved(rows, aggregator(rows))
        else:
            weights = aggregator.weighting(rows)
        if not weights.isfinite().all():
            raise TrainingError(f"The aggregator {self.aggregator} gave the weights {weights.tolist()}.")
        return weights.to(rows)

    def _aggregator(self, tasks: int, check: bool = False) -> Any:
        size = tasks if self.aggregator == "NashMTL" else 0
        if size not in self.made:
            self.made[size] = _make(self.aggregator, self.settings, tasks, check)
        return self.made[size]

    def get_extra_state(self) -> dict[str, Any]:
        return {"steps": self.steps, "kept": self.kept, "memory": self.memory.clone()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.steps, self.kept = state["steps"], dict(state["kept"])
        self.memory = state["memory"].cpu().clone()


def _memory(aggregator: str, tasks: int) -> Tensor:
    """What the aggregator knows at the start of a run: Nash-MTL its last weights, GradVac the cosines it aims at."""
    if aggregator == "NashMTL":
        return torch.ones(tasks, dtype=torch.float64)
    return torch.zeros(tasks, tasks) if aggregator == "GradVac" else torch.zeros(0)


def _make(name: str, settings: Mapping[str, Any], tasks: int, check: bool) -> Any:
    """An aggregator of TorchJD. Raises ConfigError where that or its solver is not installed, for a name that is not there or
    an aggregator that this adapter cannot hold, and for settings it does not take."""
    missing = f"The aggregator {name} needs TorchJD and its solvers: pip install 'tlmtl[mtl]'."
    try:
        import torchjd
        from torchjd import aggregation  # imports the solvers too, half a second
    except ImportError as error:
        raise ConfigError(f"{missing} ({error})") from error
    known = [one for one in aggregation.__all__ if issubclass(getattr(aggregation, one), aggregation.Aggregator)]
    known = [one for one in known if one not in ("Aggregator", "WeightedAggregator", "GramianWeightedAggregator")]
    if name not in known:
        raise ConfigError(f"Unknown 'weighting.aggregator={name}'.{nearest(name, known)} Known: {', '.join(known)}.")
    target = getattr(aggregation, name)
    if not issubclass(target, aggregation.WeightedAggregator) and name != "ConFIG":
        raise ConfigError(f"'weighting.aggregator={name}' cannot be used: it does not weigh the tasks' gradients.")
    if issubclass(target, torchjd.Stateful) and name not in ("NashMTL", "GradVac"):
        raise ConfigError(f"'weighting.aggregator={name}' cannot be used: its state would not survive a resume.")
    if "update_weights_every" in settings:
        raise ConfigError("'weighting.settings.update_weights_every' is called weighting.update_every here.")
    own = {"n_tasks": tasks} if name == "NashMTL" else {}
    try:
        made = target(**own, **settings)
        if (
            check and name != "NashMTL"
        ):  # a wrong setting may show only when it is used; Nash-MTL's check its own, and it is slow
            with torch.random.fork_rng(devices=[]):
                made(torch.eye(tasks))
    except ImportError as error:
        raise ConfigError(f"{missing} ({error})") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"'weighting.settings' does not suit the aggregator {name}: {error} (found {settings})."
        ) from error
    return made


def _gramian(rows: Tensor) -> Tensor:
    """The rows' inner products (K, K), over their mean square, on the CPU, which loops over K x K numbers best.

    No weights change with that scale, but TorchJD takes sums of squares below 1e-4 for 0, and such small gradients are common
    at the features: CAGrad would leave the encoder as it is, and UPGrad would not project.
    """
    gramian = (rows @ rows.T).cpu()
    scale = gramian.diagonal().mean()
    return gramian / scale if scale > 0 else gramian


def _fair(aggregator: Any, gramian: Tensor) -> Tensor:
    """FairGrad's weights, the solution of G w = w^(-1/alpha).

    Its solver starts from 1/K. In w = K t v with t_k = G_kk^(-alpha / (1 + alpha)) the same equation has that very solution
    for orthogonal rows, so that it is found in a fifth of the steps, however small or unequal the gradients are.
    """
    diagonal, alpha = gramian.diagonal(), aggregator.alpha
    least = max(1e-12 * float(diagonal.mean()), 1e-30)
    units = diagonal.clamp(min=least) ** (-alpha / (1 + alpha)) * len(gramian)
    return units * aggregator.gramian_weighting((units ** (1 / alpha)).unsqueeze(1) * gramian * units)


def _solved(rows: Tensor, vector: Tensor) -> Tensor:
    """Weights (K,) with which `rows` (K, P) make `vector` (P,), which lies in their span: by least squares, on rows of
    length 1, so that short ones count."""
    gramian = (rows @ rows.T).double()
    norms = gramian.diagonal().sqrt()
    cosines = torch.nan_to_num(gramian / (norms.unsqueeze(1) * norms))
    weights = torch.linalg.pinv(cosines, rtol=1e-6, hermitian=True) @ torch.nan_to_num((rows @ vector).double() / norms)
    return torch.where(norms > 0, weights / norms, 0.0)
