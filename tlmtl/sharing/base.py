"""The seam for how tasks share the encoder, and what its members stand on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from tlmtl.data.streams import seed_for
from tlmtl.models.encoder import Output

M = TypeVar("M", bound=nn.Module)


class Sharing(nn.Module):
    """From an input to the outputs of several tasks.

    The program supplies what the constructor asks for by these names: `encoder` (its module has the source parameters in)
    and `heads` (by task, in order). Parameters are called `backbone.*` (`backbone.<task>.*` where each task has an encoder
    of its own), `shared.*` (what a sharing adds between backbone and heads) and `heads.<task>.*`.

    Attributes:
        one_feature: all heads take the one tensor `Output.features`.
        separate: every task has a model of its own, so that there is nothing to weigh.
    """

    one_feature = False
    separate = False
    heads: "ByTask"

    def forward(self, input: Any, tasks: Sequence[str], layers: Sequence[str] = ()) -> Output:
        """Outputs of the heads of `tasks`, each (n, outputs), beside the features and `layers` they came from."""
        raise NotImplementedError

    def branches(self) -> dict[str, list[str]]:
        """Groups of tasks that share no parameter with one another, by name: {"": all tasks} where all share some."""
        return {"": list(self.heads)}


class ByTask(nn.Module):
    """Modules by task, in order. Unlike `nn.ModuleDict` it takes any name: a column of a table may be called `type`."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self._modules.update(modules)

    def __getitem__(self, task: str) -> nn.Module:
        found = self._modules[task]
        assert found is not None
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


def fresh(name: str, make: Callable[[], M]) -> M:
    """A module whose initial values depend on torch's seed and its own name alone: one task or expert more leaves the
    others as they were."""
    seed = seed_for("fresh", torch.initial_seed(), name)
    with torch.random.fork_rng(devices=[]):  # on the CPU, where models are made
        torch.default_generator.manual_seed(seed)
        return make()
