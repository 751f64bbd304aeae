"""The seam for heads that are found on frozen features by another way than the training loop."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.evaluation import Predictions, measure, selection_score
from tlmtl.tasks.base import Task
from tlmtl.training import Setup

# Settings that a way without steps has no use for.
OF_STEPS: tuple[str, ...] = ("optimizer", "schedule", "weighting", "head.init", "head.dropout", "train.epochs")
OF_STEPS += ("train.batch_size", "train.accumulate", "train.clip", "train.ema", "train.sampler", "train.early_stopping")
OF_STEPS += ("train.evaluate_every", "train.checkpoint_every", "dataset.augment", "features.views")


@dataclass
class Labelled:
    """The examples of one split that have a task's label.

    Arguments:
        features: float32 (n, D).
        targets: as the task encodes them, (n,) or (n, K).
    """

    features: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass
class Problem:
    """One task's head, to be found.

    Arguments:
        head: a new one, as `head` says.
        tell: to be called after each setting that was tried, with its loss on validation; where `count` counts something else,
            with how much of that was done since the last time, too.
        setup: the run's, for ways that draw batches.
        stream: the name of the stream that the task is of.
    """

    task: Task
    train: Labelled
    val: Labelled
    head: nn.Module
    tell: Callable[..., None]
    setup: Setup
    stream: str


@dataclass
class Tried:
    """One setting on validation: what it is called (`k=20`), its metrics, and the score it may be chosen by."""

    name: str
    metrics: dict[str, float]
    score: float
    step: int = 0


@dataclass
class Solved:
    """What a solver found.

    Arguments:
        head: for the task, in place of the one in the problem (or that one).
        best: the position in `tried` of what was chosen.
        steps: how many there were; with those of the loop as their measure, what passes over all examples count as.
        examples: how many training examples were looked at, each as often as it was.
        history: rows (step, epoch, split, task, name, value) in place of those of `tried`.
    """

    head: nn.Module
    tried: list[Tried]
    best: int
    steps: int
    examples: int
    history: list[list[Any]] = field(default_factory=list)


class Solver(Protocol):
    """A way to find heads.

    Attributes:
        ignores: keys of the config, whole sections among them, that cannot change what it finds. With `dataset.augment` among
            them it is given the images as they are.
    """

    ignores: ClassVar[tuple[str, ...]]

    def check(self, tasks: Mapping[str, Task], run: Any) -> None:
        """Raises ConfigError for tasks, and settings of a run (`assemble.Assembly`), that it cannot do."""
        ...

    def count(self, total: int) -> int:
        """How much it tells of for one task. `total`: steps that the loop would take."""
        ...

    def solve(self, problem: Problem) -> Solved: ...


def check_solver(solver: Solver, run: Any, reason: str) -> None:
    """Raises ConfigError for a run (`assemble.Assembly`) whose heads the solver cannot find.

    Arguments:
        reason: why the features of a frozen backbone cannot be kept; "" when they can.
    """
    cfg, total = run.cfg, run.units.total
    called = f"strategy={cfg.composed.choices.get('strategy', '?')}"
    if not (run.model.one_feature or run.model.separate):
        raise ConfigError(
            f"{called} finds heads on the backbone's own features: sharing=hard or sharing=none. Found "
            f"sharing={cfg.composed.choices.get('sharing')}, which puts something between."
        )
    if reason:
        raise ConfigError(f"{called} needs features that are computed once, which cannot be done here: {reason}.")
    if not any(cut.whole and cut.start == 0 and cut.until == total for cut in run.cuts):
        raise ConfigError(
            f"{called} needs a backbone that is frozen for the whole run; 'strategy.rules' train a part of it. The rule "
            "{params: 'backbone.*', frozen: true}, before others, freezes it."
        )
    solver.check({name: task for one in run.data.values() for name, task in one.tasks.items()}, run)


def tried(task: Task, name: str, outputs: Tensor, val: Labelled, step: int = 0) -> Tried:
    """A setting judged by what it says of the validation examples, (n, outputs)."""
    there = torch.ones(len(val), dtype=torch.bool)
    said = Predictions({task.name: outputs.float()}, {task.name: val.targets}, {task.name: there})
    metrics = measure(task, said)
    return Tried(name, metrics, selection_score(task, said, metrics), step)


def best_of(all_tried: Sequence[Tried], usual: int) -> int:
    """The position of the best score, the first of equal ones; `usual` where validation says nothing."""
    scores = [-math.inf if math.isnan(one.score) else one.score for one in all_tried]
    top = max(scores)
    return scores.index(top) if top > -math.inf else usual
