"""One run of a bank: what it draws, and how fast it learns."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tlmtl.bank.stack import LINEAR
from tlmtl.data.streams import generator_for
from tlmtl.errors import TrainingError
from tlmtl.models.heads import LinearHead
from tlmtl.tasks.base import Task
from tlmtl.training import Setup, State, Watch


@dataclass
class Member:
    """One run of a bank.

    Arguments:
        setup: as `loop.fit` would take it, on activations that are held in memory; see `why_alone`.
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


def why_alone(setup: Setup) -> str:
    """Why a run cannot be a member, or "" when it can."""
    if len(setup.tasks) != 1 or len(setup.streams) != 1:
        return "it has several tasks or data sets"
    if not isinstance(setup.model.heads[next(iter(setup.tasks))], LinearHead):
        return "its head has hidden layers"
    if setup.terms or setup.ema is not None or setup.accumulate != 1:
        return "it has terms, an average of its parameters, or batches in pieces"
    if type(setup.optimizer) not in LINEAR:
        return f"the optimizer {type(setup.optimizer).__name__} is none of {', '.join(one.__name__ for one in LINEAR)}"
    if any(group["start"] for group in setup.groups.groups):
        return "something of it trains later"
    if any(stream.known is None for stream in setup.streams.values()):
        return "its features are not kept"
    return ""


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


@dataclass
class Table:
    """A head's learning rates at each of its steps, (total,), and its decays."""

    weight: Tensor
    bias: Tensor
    weight_decay: float
    bias_decay: float


def rates_of(member: Member) -> Table:
    """From the optimizer's groups of the run alone."""
    groups, linear = member.setup.groups, member.head.linear
    factors = torch.tensor(
        [groups.schedule(step, member.setup.total, groups.units) for step in range(member.setup.total)],
        dtype=torch.float64,
    )
    found = []
    for parameter in (linear.weight, linear.bias):
        for group, made in zip(groups.groups, groups.made.param_groups, strict=True):
            if any(one is parameter for one in group["params"]):
                found.append((groups.lr * group["scale"] * factors, made.get("weight_decay", 0.0)))
    (weight, weight_decay), (bias, bias_decay) = found
    return Table(weight.float(), bias.float(), weight_decay, bias_decay)
