"""How the parts of a joint data set take turns: what each step draws, and what an epoch then is.

Like `streams.plan`, it is a pure function of seed and epoch, so that a resumed run sees what it would have seen.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tlmtl.data.streams import draws, generator_for, order, steps_per_epoch
from tlmtl.errors import ConfigError, nearest

SAMPLINGS = {  # what an epoch is
    "proportional": "every part once, its batches in random turn with those of the others",
    "uniform": "as many steps as all parts have batches; each takes a part at random, all equally likely",
    "temperature": "as many steps as all parts have batches; each takes a part at random, likely as size^(1/{T})",
    "round_robin": "as many steps as all parts have batches; the parts take turns",
    "longest": "one pass through the longest part; each step has a batch of every part, and short parts start again",
}


@dataclass(frozen=True)
class Sampling:
    """Which parts a step draws from.

    Arguments:
        how: one of SAMPLINGS. All but `longest` draw a batch from one part in each step.
        temperature: T of `temperature`, above 0: 1 is in proportion to size, large T is uniform (Arivazhagan et al. 2019,
            "Massively Multilingual Neural Machine Translation in the Wild", sec. 4.2).
    """

    how: str = "proportional"
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if self.how not in SAMPLINGS:
            raise ConfigError(
                f"'dataset.sampling' should be one of {', '.join(SAMPLINGS)}. Found '{self.how}'."
                f"{nearest(self.how, list(SAMPLINGS))}"
            )
        if not self.temperature > 0:
            raise ConfigError(f"'dataset.temperature' should be above 0. Found {self.temperature}.")

    def steps(self, sizes: Mapping[str, int], batch_size: int) -> int:
        """Steps of an epoch."""
        each = [steps_per_epoch(size, batch_size) for size in sizes.values()]
        return max(each) if self.how == "longest" else sum(each)

    def examples(self, sizes: Mapping[str, int], batch_size: int) -> int:
        """How many examples an epoch holds, for `longest` and drawn turns about so many."""
        if self.how == "proportional":
            return sum(sizes.values())
        batches = [size / steps_per_epoch(size, batch_size) for size in sizes.values()]  # their mean length
        shares = [1.0] * len(sizes) if self.how == "longest" else self._likely(sizes).tolist()
        return round(self.steps(sizes, batch_size) * sum(a * b for a, b in zip(shares, batches, strict=True)))

    def several(self, tasks: Iterable[int]) -> bool:
        """Whether a step holds losses of several tasks, where the parts have so many tasks."""
        return self.how == "longest" or max(tasks) > 1

    def plan(
        self,
        sizes: Mapping[str, int],
        batch_size: int,
        seed: int,
        epoch: int,
        weights: Mapping[str, Tensor | None] | None = None,
    ) -> list[dict[str, Tensor]]:
        """What each step of an epoch draws: a list of {part: indices}. A part's batches are of nearly equal length.

        Arguments:
            weights: by part, (n,) how likely each example is drawn, with replacement; None for each once a pass.
        """
        names, steps = list(sizes), self.steps(sizes, batch_size)
        flows = {name: _Flow(name, sizes[name], batch_size, seed, epoch, (weights or {}).get(name)) for name in names}
        if self.how == "longest":
            return [{name: flow.next() for name, flow in flows.items()} for _ in range(steps)]
        return [{names[turn]: flows[names[turn]].next()} for turn in self._turns(sizes, batch_size, seed, epoch)]

    def _turns(self, sizes: Mapping[str, int], batch_size: int, seed: int, epoch: int) -> list[int]:
        """The number of the part of each step."""
        steps, generator = self.steps(sizes, batch_size), generator_for("turns", seed, epoch)
        if self.how == "round_robin":
            return [(epoch * steps + step) % len(sizes) for step in range(steps)]
        if self.how == "proportional":
            each = torch.tensor([steps_per_epoch(size, batch_size) for size in sizes.values()])
            turns = torch.arange(len(sizes)).repeat_interleave(each)
            return turns[torch.randperm(steps, generator=generator)].tolist()
        return torch.multinomial(self._likely(sizes), steps, replacement=True, generator=generator).tolist()

    def _likely(self, sizes: Mapping[str, int]) -> Tensor:
        """How likely each part's turn is, (parts,)."""
        power = 1 / self.temperature if self.how == "temperature" else 0.0
        likely = torch.tensor(list(sizes.values()), dtype=torch.float64) ** power
        return likely / likely.sum()

    def line(self, sizes: Mapping[str, int], batch_size: int) -> str:
        """What an epoch is here, for the log."""
        what = SAMPLINGS[self.how].format(T=f"{self.temperature:g}")
        parts = ", ".join(f"{name} {size}" for name, size in sizes.items())
        return f"sampling {self.how}: an epoch is {self.steps(sizes, batch_size)} steps, {what} (examples: {parts})"


class _Flow:
    """The batches of one part in one epoch: pass after pass, each in an order of its own."""

    def __init__(
        self, name: str, size: int, batch_size: int, seed: int, epoch: int, weights: Tensor | None = None
    ) -> None:
        self.name, self.size, self.seed, self.epoch, self.weights = name, size, seed, epoch, weights
        self.steps, self.passes = steps_per_epoch(size, batch_size), 0
        self.waiting: list[Tensor] = []

    def next(self) -> Tensor:
        if not self.waiting:
            name = f"{self.name}/{self.passes}" if self.passes else self.name
            if self.weights is None:
                found = order(self.seed, name, self.epoch, self.size)
            else:
                found = draws(self.seed, name, self.epoch, self.weights)
            self.waiting = list(found.tensor_split(self.steps))
            self.passes += 1
        return self.waiting.pop(0)
