"""One run of a bank: what it draws, and how fast it learns."""

import dataclasses
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tlmtl.data.streams import generator_for
from tlmtl.errors import TrainingError
from tlmtl.models.by_task import ByTask
from tlmtl.models.heads import LinearHead
from tlmtl.sharing.base import Sharing
from tlmtl.tasks.base import Task
from tlmtl.training import Setup, State, Watch


@dataclass
class Member:
    """One run of a bank.

    Arguments:
        setup: as `loop.fit` would take it, of one task, on activations; its model has a `LinearHead`, which alone trains.
        draws: the same for members that draw the same examples in the same order (labelled subset, seed, batch size).
        random: the seed of the random numbers that it would draw alone, for dropout.
    """

    setup: Setup
    state: State
    watch: Watch
    draws: Hashable
    random: int = 0
    error: TrainingError | None = field(default=None, init=False)  # why it ended before its time

    @property
    def task(self) -> Task:
        return next(iter(self.setup.tasks.values()))

    @property
    def head(self) -> LinearHead:
        head = self.setup.model.heads[self.task.name]
        assert isinstance(head, LinearHead)
        return head

    @property
    def settings(self) -> dict[str, Any]:
        """What its optimizer was made with, but for rate and decay."""
        own = ("lr", "weight_decay", "decoupled_weight_decay")
        return {key: value for key, value in self.setup.optimizer.defaults.items() if key not in own}


class Alone(Sharing):
    """A head without a backbone."""

    def __init__(self, task: str, head: nn.Module) -> None:
        super().__init__()
        self.heads = ByTask({task: head})


def head_alone(setup: Setup) -> Setup:
    """`setup`, of a run with one task whose features are known, with the head for its model: of the backbone nothing is looked
    at any more."""
    (task,) = setup.tasks
    model = Alone(task, setup.model.heads[task])
    return dataclasses.replace(setup, model=model, groups=setup.groups.of(model), forward=None)


class Draws:
    """The batches of members that draw the same, with the same dropout."""

    def __init__(self, member: Member) -> None:
        self.member, self.p = member, member.head.dropout.p
        self.flow = self._flow()
        self.dropout = torch.Generator().manual_seed(member.random)
        self.examples = self.labels = self.step = 0

    def _flow(self) -> Iterator[Tensor]:
        epoch = 0
        while True:
            for draw in self.member.setup.plan(epoch):
                yield next(iter(draw.values()))
            epoch += 1

    def next(self) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs (n, D), targets (n, ...), and which are there: bool (n,)."""
        ((name, stream),) = self.member.setup.streams.items()
        task, indices = self.member.task.name, next(self.flow)
        part = stream.part(indices, generator_for("augment", self.member.setup.seed, name, self.step))
        values = part.input.values
        if self.p > 0:
            # As torch's dropout draws on the CPU, so that the mask is the one that the run would have alone.
            kept = torch.empty_like(values).bernoulli_(1 - self.p, generator=self.dropout)
            values = values * kept.div_(1 - self.p)
        self.step += 1
        self.examples += len(indices)
        self.labels += part.labels.get(task, 0)
        return values, stream.targets[task][indices], stream.mask[task][indices]


class Flows:
    """The factors of different schedules, by step: most members have one in common."""

    def __init__(self) -> None:
        self.known: dict[Hashable, int] = {}
        self.factors: list[Tensor] = []  # (total,) each

    def number(self, setup: Setup) -> int:
        groups = setup.groups
        key = (repr(groups.schedule), groups.units, setup.total)
        if key not in self.known:
            self.known[key] = len(self.factors)
            steps = range(setup.total)
            found = [groups.schedule(step, setup.total, groups.units) for step in steps]
            self.factors.append(torch.tensor(found, dtype=torch.float64))
        return self.known[key]

    def at(self, step: int) -> Tensor:
        """The factors (number,) of a step; 0 where there is none any more."""
        return torch.tensor([float(one[step]) if step < len(one) else 0.0 for one in self.factors], dtype=torch.float64)


def rates_of(member: Member) -> tuple[Tensor, Tensor]:
    """A head's learning rates before its schedule's factor, and its decays, both (2,): of weights and of biases. From the
    optimizer's groups of the run alone."""
    groups, linear = member.setup.groups, member.head.linear
    rates, decays = torch.zeros(2, dtype=torch.float64), torch.zeros(2)
    for number, parameter in enumerate((linear.weight, linear.bias)):
        for group, made in zip(groups.groups, groups.made.param_groups, strict=True):
            if any(one is parameter for one in group["params"]):
                rates[number], decays[number] = groups.lr * group["scale"], made.get("weight_decay", 0.0)
    return rates, decays
