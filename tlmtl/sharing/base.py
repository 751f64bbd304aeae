"""The seam for how tasks share the encoder, and what its members stand on."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tlmtl.data.streams import seed_for
from tlmtl.models.by_task import ByTask
from tlmtl.models.encoder import Output, evaluating
from tlmtl.models.statistics import Statistics

M = TypeVar("M", bound=nn.Module)


class Sharing(nn.Module):
    """From an input to the outputs of several tasks.

    The program supplies what the constructor asks for by these names: `encoder` (its module has the source parameters in)
    and `heads` (by task, in order). Parameters are called `backbone.*` (`backbone.<task>.*` where each task has an encoder
    of its own), `shared.*` (what a sharing adds between backbone and heads) and `heads.<task>.*`.

    Attributes:
        one_feature: all heads take the one tensor `Output.features`.
        separate: every task has a model of its own, so that there is nothing to weigh.
        between_stages: it works between the stages of the backbone, which is never run as a whole.
    """

    one_feature = False
    separate = False
    between_stages = False
    heads: ByTask

    def __init__(self) -> None:
        super().__init__()
        self.statistics: Statistics | None = None  # of batch norms, where each part of a joint data set has its own

    def on(self, part: str) -> AbstractContextManager[None]:
        """Batch norms use the running statistics of this part of a joint data set while `with` lasts, if parts have any."""
        return nullcontext() if self.statistics is None else self.statistics.of(part)

    def forward(self, input: Any, tasks: Sequence[str], layers: Sequence[str] = ()) -> Output:
        """Outputs of the heads of `tasks`, each (n, outputs), beside the features and `layers` they came from."""
        raise NotImplementedError

    def branches(self) -> dict[str, list[str]]:
        """Groups of tasks that share no parameter with one another, by name: {"": all tasks} where all share some."""
        return {"": list(self.heads)}


def fresh(name: str, make: Callable[[], M]) -> M:
    """A module whose initial values depend on torch's seed and its own name alone: one task or expert more leaves the
    others as they were."""
    seed = seed_for("fresh", torch.initial_seed(), name)
    with torch.random.fork_rng(devices=[]):  # on the CPU, where models are made
        torch.default_generator.manual_seed(seed)
        return make()


def private(model: Sharing, input: Tensor) -> set[str]:
    """Names of the parameters that serve no more than one task (heads, gates, experts and masks of one task's own), found by
    asking each task's output for `input` what it depends on. Called before any parameter is frozen."""
    if model.one_feature:
        return {name for name, _ in model.named_parameters() if name.startswith("heads.")}
    names, parameters = zip(*model.named_parameters(), strict=True)
    uses = dict.fromkeys(names, 0)
    with evaluating(model):
        outputs = model(input, list(model.heads)).heads
    for output in outputs.values():
        found = torch.autograd.grad(output.sum(), parameters, retain_graph=True, allow_unused=True)
        for name, gradient in zip(names, found, strict=True):
            uses[name] += gradient is not None
    return {name for name, count in uses.items() if count < 2}
