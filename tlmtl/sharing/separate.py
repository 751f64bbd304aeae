"""`sharing=none`: a model for each task, trained in one run."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from tlmtl.models.by_task import ByTask
from tlmtl.models.encoder import Encoder, Output, encode
from tlmtl.sharing.base import Sharing


class Separate(Sharing):
    """One backbone and one head for each task, all starting from the same parameters. Nothing is shared but the batches, so
    this is what any sharing has to beat.

    Its parameters are called `backbone.<task>.*` and `heads.<task>.*`. Only the encoders of the tasks that are asked for
    run; all of them where no task is.
    """

    separate = True

    def __init__(self, encoder: Encoder, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.backbone, self.heads = ByTask(copies(encoder.module, list(heads))), ByTask(heads)

    def forward(self, input: Any, tasks: Sequence[str], layers: Sequence[str] = ()) -> Output:
        own = {task: encode(self.backbone[task], input, layers) for task in tasks or self.backbone}
        return side_by_side(own, self.heads, tasks)

    def branches(self) -> dict[str, list[str]]:
        return {task: [task] for task in self.heads}


def copies(module: nn.Module, tasks: Sequence[str]) -> dict[str, nn.Module]:
    """By task, the module itself and copies of it."""
    return {task: copy.deepcopy(module) if i else module for i, task in enumerate(tasks)}


def side_by_side(own: dict[str, Output], heads: ByTask, tasks: Sequence[str]) -> Output:
    """The output of encoders of the tasks' own: what each gives, and of the first one where one is asked for."""
    first = next(iter(own.values()))
    return Output(first.features, first.layers, {task: heads[task](own[task].features) for task in tasks}, own)
