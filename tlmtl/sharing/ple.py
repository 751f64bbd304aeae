"""`sharing=ple`: experts that all tasks share and experts of each task's own, in levels."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tlmtl.models.by_task import ByTask
from tlmtl.models.encoder import Encoder, Output, encode
from tlmtl.sharing.base import Sharing, fresh
from tlmtl.sharing.experts import Gate, check_count, experts, mix


class PLE(Sharing):
    """Progressive layered extraction: at each level a task's gate mixes its own experts and the shared ones, and a gate of the
    shared part mixes the experts of all; the head takes what the last level gives its task.

    Tang, Liu, Zhao & Gong 2020, "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning Model for Personalized
    Recommendations", section 4; one level is its customized gate control (CGC). Unlike in the paper the first level takes
    the encoder's features (n, D), not the raw input, and experts are small networks D -> D, so that it goes with every
    backbone. Its parameters are called `backbone.*`, `shared.<level>.*` (at the last level `own.<task>.*` and `gates.<task>.*`
    serve one task; below, all) and `heads.<task>.*`. `Output.features` are the encoder's.

    Arguments:
        levels: how many, 1 or more.
        own_experts, shared_experts: at each level, for each task and for all, 1 or more.
        hidden: units of an expert's inner layer.
    """

    def __init__(
        self,
        levels: int = 2,
        own_experts: int = 1,
        shared_experts: int = 2,
        hidden: int = 128,
        *,
        encoder: Encoder,
        heads: dict[str, nn.Module],
    ) -> None:
        super().__init__()
        check_count("levels", levels, 1, 100)
        check_count("own_experts", own_experts, 1)
        check_count("shared_experts", shared_experts, 1)
        check_count("hidden", hidden, 1, 100_000)
        self.backbone, self.heads = encoder.module, ByTask(heads)
        # Tasks are sorted, so that a gate's weights mean the same when the model is built again from a file of another order.
        sizes = (own_experts, shared_experts, encoder.feature_size, hidden)
        self.shared = nn.ModuleList(Level(i, sorted(heads), *sizes, last=i == levels - 1) for i in range(levels))

    def forward(self, input: Any, tasks: Sequence[str], layers: Sequence[str] = ()) -> Output:
        output = encode(self.backbone, input, layers)
        mixed, common = dict.fromkeys(sorted(self.heads), output.features), output.features
        for level in self.shared:
            mixed, common = level(mixed, common, tasks)
        output.heads = {task: self.heads[task](mixed[task]) for task in tasks}
        return output


class Level(nn.Module):
    """By task (n, D), and (n, D) of the shared part -> the same. The `last` one gives the shared part no mixture of its own,
    and works for the tasks that are asked for alone.
    """

    def __init__(
        self, number: int, tasks: Sequence[str], own: int, shared: int, size: int, hidden: int, last: bool
    ) -> None:
        super().__init__()
        name = f"ple/{number}"
        self.experts = experts(name, shared, size, hidden)
        self.own = ByTask({task: experts(f"{name}/{task}", own, size, hidden) for task in tasks})
        self.gates = ByTask({task: fresh(f"{name}/gate/{task}", lambda: Gate(size, own + shared)) for task in tasks})
        count = own * len(tasks) + shared
        self.gate = None if last else fresh(f"{name}/gate", lambda: Gate(size, count))

    def forward(
        self, inputs: dict[str, Tensor], common: Tensor, tasks: Sequence[str]
    ) -> tuple[dict[str, Tensor], Tensor]:
        shared = [expert(common) for expert in self.experts]
        chosen = tasks if self.gate is None else list(inputs)
        own = {task: [expert(inputs[task]) for expert in self._own(task)] for task in chosen}
        mixed = {task: mix(self.gates[task](inputs[task]), [*own[task], *shared]) for task in chosen}
        if self.gate is not None:
            every = [*(output for outputs in own.values() for output in outputs), *shared]
            common = mix(self.gate(common), every)
        return mixed, common

    def _own(self, task: str) -> nn.ModuleList:
        found = self.own[task]
        assert isinstance(found, nn.ModuleList)
        return found
