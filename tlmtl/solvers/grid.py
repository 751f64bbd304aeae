"""`strategy=linear_probe_grid`: linear heads for a grid of learning rates and weight decays, trained at once."""

import copy
import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar

from torch import nn

from tlmtl.bank.fit import fit_together
from tlmtl.bank.member import Alone, Member
from tlmtl.bank.stack import why_not
from tlmtl.errors import ConfigError, TrainingError
from tlmtl.models.heads import LinearHead
from tlmtl.optim import Groups
from tlmtl.solvers.base import Problem, Solved, Tried, best_of
from tlmtl.strategies.rules import match, parse_rules
from tlmtl.tasks.base import Task
from tlmtl.training import State, Watch

log = logging.getLogger("tlmtl")
USUAL = 1e-2  # the learning rate that is taken where validation says nothing
AT_ONCE = 2**26  # parameters of heads that are trained together: with what the optimizer keeps, a gigabyte
OF_OTHERS = ("lr", "weight_decay", "decoupled_weight_decay")


class LinearProbeGrid:
    """A linear head for each pair of learning rate and weight decay, all of them on the same batches; the one that is the best
    on validation, in its best epoch, is the run's.

    This is the linear evaluation of DINOv2 (Oquab et al. 2023, appendix B.3), which has 13 rates from 1e-5 to 0.1, times
    batch size / 256, and no decay: SGD with momentum and a cosine schedule are the preset's, the number of epochs and the batch
    size the run's. Here rates are as they are, the grid has decays (of weights, not of biases), all heads start alike, and an
    epoch is chosen as every strategy chooses it. Each head comes out as it would alone (`tlmtl.bank`).

    Arguments:
        lrs, weight_decays: 0 or more.
    """

    ignores: ClassVar[tuple[str, ...]] = (
        "optimizer.lr", "optimizer.weight_decay", "weighting", "train.checkpoint_every"
    )  # fmt: skip

    def __init__(self, lrs: list[float], weight_decays: list[float]) -> None:
        for name, values in (("lrs", lrs), ("weight_decays", weight_decays)):
            if not values or not all(0 <= value < math.inf for value in values):
                raise ConfigError(
                    f"'strategy.solver.{name}' should list numbers of 0 or more, such as [0.001,0.1]. Found {values}."
                )
        self.lrs, self.decays = sorted(set(lrs)), sorted(set(weight_decays))

    def check(self, tasks: Mapping[str, Task], run: Any) -> None:
        cfg, called = run.cfg, "strategy=linear_probe_grid"
        if len(run.data) > 1:
            raise ConfigError(f"{called} trains on one data set. Found the parts {', '.join(run.data)}.")
        if cfg.head.hidden:
            raise ConfigError(
                f"{called} trains linear heads: 'head.hidden' should be []. Found {list(cfg.head.hidden)}."
            )
        for key, usual in (("ema", None), ("accumulate", 1)):
            if cfg.train[key] != usual:
                raise ConfigError(f"{called} has no use for 'train.{key}'. Found {cfg.train[key]}: leave it out.")
        if why := why_not(run.groups.made):
            raise ConfigError(f"{called} can train with torch.optim.SGD, Adam or AdamW. Found {why} ('optimizer').")

    def count(self, total: int) -> int:
        return total

    def solve(self, problem: Problem) -> Solved:
        pairs = list(product(self.lrs, self.decays))
        members = [self._member(problem, lr, decay) for lr, decay in pairs]
        at_once = max(1, AT_ONCE // sum(p.numel() for p in problem.head.parameters()))
        groups = [members[at : at + at_once] for at in range(0, len(members), at_once)]
        if len(groups) > 1:
            log.info("%d heads are trained %d at a time, for memory.", len(members), at_once)
        for group in groups:
            group[0].watch = _Teller(problem, len(groups))
            fit_together(group)
        if all(member.error for member in members):
            raise TrainingError(
                f"The loss of task '{problem.task.name}' became infinite or no number for every head of the grid: "
                f"'strategy.solver.lrs' should hold smaller rates. Found {self.lrs}."
            )
        names = [f"lr={lr:g} weight_decay={decay:g}" for lr, decay in pairs]
        found = [_tried(member, name) for member, name in zip(members, names, strict=True)]
        usual = min(range(len(pairs)), key=lambda i: abs(math.log(max(pairs[i][0], 1e-12) / USUAL)))
        best = best_of(found, usual)
        _tell_edge(problem.task, self.lrs, pairs[best][0])
        _take(problem.head, members[best])
        rows = _rows(problem, members[best].state)
        rows += [row for member, name in zip(members, names, strict=True) for row in _rows(problem, member.state, name)]
        state = members[best].state
        return Solved(problem.head, found, best, max(one.state.step for one in members), state.examples, rows)

    def _member(self, problem: Problem, lr: float, decay: float) -> Member:
        setup, name = problem.setup, problem.stream
        model = Alone(problem.task.name, copy.deepcopy(problem.head).cpu().float())
        rules = match(parse_rules([{"params": "*"}]), [name for name, _ in model.named_parameters()])
        groups = Groups(model, rules, setup.groups.schedule, setup.groups.units, [])
        own = {key: value for key, value in setup.optimizer.defaults.items() if key not in OF_OTHERS}
        made = groups.optimizer(type(setup.optimizer), lr, weight_decay=decay, **own)
        alone = dataclasses.replace(
            setup, model=model, tasks={problem.task.name: problem.task}, streams={name: setup.streams[name]},
            validation={name: setup.validation[name]}, groups=groups, optimizer=made, forward=None,
        )  # fmt: skip
        return Member(alone, State(), Watch(), draws="all", random=setup.seed)


class _Teller(Watch):
    """Tells the run how far a bank is, by one of its heads."""

    def __init__(self, problem: Problem, banks: int) -> None:
        self.problem, self.banks, self.step = problem, banks, 0

    def evaluated(self, state: State, metrics: Mapping[str, Mapping[str, float]], scores: Mapping[str, float]) -> None:
        loss = metrics[self.problem.task.name].get("loss", 0.0)
        self.problem.tell(loss, (state.step - self.step) // self.banks)
        self.step = state.step


def _tried(member: Member, name: str) -> Tried:
    """A head in its best epoch."""
    state, score = member.state, next(iter(member.state.best_score.values()), math.nan)
    step = next(iter(state.best_step.values()), state.step)
    rows = [row for row in state.history if row[0] == step and row[2] == "val" and row[4] != "score"]
    return Tried(name, {row[4]: row[5] for row in rows}, score, step)


def _rows(problem: Problem, state: State, name: str = "") -> list[list[Any]]:
    """A head's history, as the run's own; with a `name`, what validation said of it, told apart from the run's own."""
    task = problem.task.name
    alone = len(problem.setup.tasks) == 1
    rows = [[*row[:3], row[3] if alone else row[3] or task, *row[4:]] for row in state.history]
    if not name:
        return rows
    return [[*row[:3], task, f"{row[4]}[{name}]", row[5]] for row in rows if row[2] == "val"]


def _take(head: nn.Module, member: Member) -> None:
    """The member's parameters, those of its best epoch, into `head`."""
    assert isinstance(head, LinearHead)
    best = member.state.best_model or member.setup.model.state_dict()
    prefix = f"heads.{next(iter(member.setup.model.heads._modules))}."
    head.load_state_dict({key.removeprefix(prefix): value for key, value in best.items()})


def _tell_edge(task: Task, lrs: Sequence[float], lr: float) -> None:
    if len(lrs) > 1 and lr in (lrs[0], lrs[-1]):
        log.info("%s: the best learning rate, %g, is the grid's %s: 'strategy.solver.lrs' could reach further.",
                 task.name, lr, "last" if lr == lrs[-1] else "first")  # fmt: skip
