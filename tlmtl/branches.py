"""Parts of a model that share nothing (`sharing=none`) are trained as if each were alone: its own clipping, early stopping
and best epoch. A model whose tasks share an encoder is one branch."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property

from torch import Tensor, nn
from torch.optim import Optimizer

from tlmtl.sharing.base import Sharing
from tlmtl.tasks.base import Task


class Branches:
    """The branches of a model, as its `branches()` tells them: by name, the tasks that share parameters.

    With several branches a branch is called as its task, and the names of its parameters and buffers have that as their
    second word (`backbone.left.block1...`, `heads.left.linear...`).

    Arguments:
        constant: tells the names of parameters and buffers that the whole run leaves as they were, so that they need not be
            kept. It is asked once, when that is to be known.
    """

    def __init__(self, model: Sharing, constant: Callable[[], Collection[str]] = set) -> None:
        self.model, self._constant = model, constant
        self.tasks: Mapping[str, list[str]] = model.branches()

    @cached_property
    def constant(self) -> Collection[str]:
        return self._constant()

    def __len__(self) -> int:
        return len(self.tasks)

    def active(self, tasks: Iterable[str], stopped: Collection[str]) -> list[str]:
        """Those of `tasks` that are not of a `stopped` branch."""
        resting = {task for branch in stopped for task in self.tasks[branch]}
        return [task for task in tasks if task not in resting]

    def of(self, name: str) -> str:
        """The branch that a parameter or buffer belongs to."""
        return next(iter(self.tasks)) if len(self.tasks) == 1 else name.split(".")[1]

    def clip(self, optimizer: Optimizer, norm: float) -> None:
        """Scale the gradients of each branch to a norm of at most `norm`; so are those of what is not the model (parameters of
        terms and weightings), by themselves."""
        names = {id(p): f"branch {self.of(name)}" for name, p in self.model.named_parameters()}
        groups: dict[str, list[nn.Parameter]] = {}
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            groups.setdefault(names.get(id(parameter), ""), []).append(parameter)
        for parameters in groups.values():
            nn.utils.clip_grad_norm_(parameters, norm)

    def rest(self, stopped: Collection[str]) -> None:
        """No gradients for the parameters of stopped branches."""
        for name, parameter in self.model.named_parameters():
            if self.of(name) in stopped:
                parameter.requires_grad_(False)

    def keep(self, best: dict[str, Tensor], branch: str, state: Mapping[str, Tensor]) -> None:
        """Copy the branch's part of a model's `state` into `best`, but for what is the same at every step."""
        for name, tensor in state.items():
            if name not in self.constant and self.of(name) == branch:
                best[name] = tensor.detach().cpu().clone()

    def score(self, branch: str, tasks: Mapping[str, Task], scores: Mapping[str, float]) -> float:
        """What the branch's best epoch is chosen by: the mean of `scores` over its primary tasks (over all where none is
        primary), those left out that have no label on validation; -inf where none has."""
        mine = self.tasks[branch]
        primary = [task for task in mine if tasks[task].primary] or mine
        found = [scores[task] for task in primary if not math.isnan(scores[task])]
        return sum(found) / len(found) if found else -math.inf
