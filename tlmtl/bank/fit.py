"""Many runs that differ only in what concerns their heads, trained at once on features that they share.

What comes of each is what `loop.fit` makes of it alone, to rounding: the same batches in the same order, its own learning rate,
weight decay, clipping, dropout, early stopping and length.
"""

import math
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tlmtl.bank.member import Draws, Flows, Member, rates_of
from tlmtl.bank.stack import Rates, Stack, Steps
from tlmtl.evaluation import EVALUATION_BATCH, Predictions
from tlmtl.training import not_finite
from tlmtl.validation import validated


def fit_together(members: Sequence[Member]) -> None:
    """Train every member to its end. One whose loss is not finite stops alone, with the reason in its `error`.

    Members must be alike in optimizer (but for rate and decay), in the size of their features and outputs, and in their
    validation split. The watch of the first is asked at each step's end whether to stop there.
    """
    bank = _Bank(members)
    while bank.alive.any():
        bank.advance()
        bank.look()
        if stop := members[0].watch.stop_asked(members[0].state):
            raise stop


@dataclass
class _Bank:
    """Members in groups that draw the same batches; a member's place in the stack is (its group, its number there)."""

    members: Sequence[Member]
    step: int = field(default=0, init=False)
    next_look: int = field(default=0, init=False)  # the step after which a member is to be validated next
    share: float = field(default=0.0, init=False)  # seconds of training for each member that is still there

    def __post_init__(self) -> None:
        found: dict[Hashable, list[Member]] = {}
        for member in self.members:
            found.setdefault((member.draws, member.head.dropout.p), []).append(member)
        self.groups = list(found.values())
        self.draws = [Draws(group[0]) for group in self.groups]
        self.stack = Stack([[member.head.linear for member in group] for group in self.groups])
        shape = self.stack.bias.shape[:2]
        self.alive, self.sums = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.float64)
        self.clip = torch.full(shape, math.inf)
        self.scales, self.decays = torch.zeros(2, *shape, dtype=torch.float64), torch.zeros(2, *shape)
        self.flows, self.flow = Flows(), torch.zeros(shape, dtype=torch.int64)
        for g, group in enumerate(self.groups):
            for h, member in enumerate(group):
                self.alive[g, h] = True
                self.clip[g, h] = math.inf if member.setup.clip is None else member.setup.clip
                self.flow[g, h] = self.flows.number(member.setup)
                self.scales[:, g, h], self.decays[:, g, h] = rates_of(member)
        self.started = torch.zeros(shape, dtype=torch.int64)  # the step after which a member's losses are summed
        self.steps = Steps(self.stack, type(self.members[0].setup.optimizer), self.members[0].settings)
        tasks = [group[0].task for group in self.groups]
        self.one_task = all(task == tasks[0] for task in tasks)

    def advance(self) -> None:
        """One step of all heads."""
        began = time.perf_counter()
        batches = [draws.next() for draws in self.draws]
        most = max(len(batch[0]) for batch in batches)
        input, target, mask = (torch.stack([_filled(batch[i], most) for batch in batches]) for i in range(3))
        output = self.stack(input)
        losses = self._losses(output, target, mask)
        fine = losses.detach().isfinite()
        torch.where(self.alive & fine, losses, 0.0).sum().backward()
        self._fail(losses.detach(), self.alive & ~fine)
        if self.clip.isfinite().any():
            self.steps.clip(self.clip)
        now = (self.scales * self.flows.at(self.step)[self.flow]).float()
        self.steps.step(Rates(*now, *self.decays), self.alive)
        self.sums += torch.where(self.alive, losses.detach(), 0.0)
        self.step += 1
        self.share += (time.perf_counter() - began) / max(1, int(self.alive.sum()))

    def _losses(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Training losses (G, H) of outputs (G, H, B, C); targets and masks are (G, B)."""
        groups, places = output.shape[:2]
        if self.one_task:
            target, mask = (
                one.unsqueeze(1).expand(groups, places, *one.shape[1:]).flatten(0, 1) for one in (target, mask)
            )
            return torch.vmap(self.groups[0][0].task.training_loss)(output.flatten(0, 1), target, mask).view(
                groups, places
            )
        each = zip(self.groups, output, target, mask, strict=True)
        heads = [torch.vmap(group[0].task.training_loss, in_dims=(0, None, None)) for group in self.groups]
        return torch.stack([loss(*tensors) for loss, (_, *tensors) in zip(heads, each, strict=True)])

    def _fail(self, losses: Tensor, failed: Tensor) -> None:
        for g, h in failed.nonzero().tolist():
            member = self.groups[g][h]
            what = f"The loss of task '{member.task.name}'"
            member.error = not_finite(what, float(losses[g, h]), self.step + 1, member.setup.total)
            self.alive[g, h] = False

    def look(self) -> None:
        """Validate the members whose turn it is, and let those rest that are at their end."""
        if self.step < self.next_look:
            return
        due = []
        for g, group in enumerate(self.groups):
            for h, member in enumerate(group):
                setup = member.setup
                if self.alive[g, h] and (self.step % setup.evaluate_every == 0 or self.step == setup.total):
                    due.append((g, h, member))
        ends = [
            min((self.step // one.setup.evaluate_every + 1) * one.setup.evaluate_every, one.setup.total)
            for g, group in enumerate(self.groups) for h, one in enumerate(group) if self.alive[g, h]
        ]  # fmt: skip
        self.next_look = min((end for end in ends if end > self.step), default=0)
        if not due:
            return
        began = time.perf_counter()
        outputs = self._ask([(g, h) for g, h, _ in due])
        shared = (time.perf_counter() - began) / len(due)
        for (g, h, member), output in zip(due, outputs, strict=True):
            began = time.perf_counter() - shared
            name, state = member.task.name, member.state
            self.stack.put_back(g, h)
            state.step, state.seconds["train"] = self.step, self.share
            state.examples, state.labels = self.draws[g].examples, {name: self.draws[g].labels}
            state.sums = {"loss": {name: (float(self.sums[g, h]), self.step - int(self.started[g, h]))}}
            self.sums[g, h], self.started[g, h] = 0.0, self.step
            member.watch.stepped(state, {})
            rate = member.setup.groups.rate(self.step - 1)
            (stream,) = member.setup.validation.values()  # a task may have its targets in a unit of its own
            said = Predictions({name: output}, {name: stream.targets[name]}, {name: stream.mask[name]})
            validated(member.setup, state, member.watch, rate, member.setup.model, {name: said}, began)
            self.alive[g, h] = self.step < member.setup.total and not state.stopped

    @torch.inference_mode()
    def _ask(self, places: list[tuple[int, int]]) -> Tensor:
        """What the heads at these K places say on validation: (K, n, C)."""
        (stream,) = self.members[0].setup.validation.values()
        rows, columns = map(list, zip(*places, strict=True))
        weight, bias = self.stack.weight[rows, columns], self.stack.bias[rows, columns]  # (K, C, D), (K, C)
        outputs = torch.empty(len(places), len(stream), bias.shape[1])
        for at in torch.arange(len(stream)).split(EVALUATION_BATCH):
            values = stream.part(at).input.values
            made = values @ weight.flatten(0, 1).T + bias.flatten()
            outputs[:, at] = made.view(len(at), *bias.shape).transpose(0, 1)
        return outputs


def _filled(values: Tensor, length: int) -> Tensor:
    """`values` (n, ...) with zeros up to `length` rows."""
    left = length - len(values)
    return torch.cat([values, values.new_zeros(left, *values.shape[1:])]) if left else values
