"""`sharing=cross_stitch`: an encoder for each task, and learned mixtures between their stages."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.models.by_task import ByTask
from tlmtl.models.encoder import Encoder, Output, recorded
from tlmtl.models.stages import stages
from tlmtl.sharing.base import Sharing
from tlmtl.sharing.separate import copies, side_by_side


class CrossStitch(Sharing):
    """After each stage, task i goes on with x~_i = sum_j alpha_ij x_j of the maps x_j of all tasks' encoders.

    Misra, Shrivastava, Gupta & Hebert 2016, "Cross-stitch Networks for Multi-task Learning", eq. 1, for any number of tasks.
    Its parameters are called `backbone.<task>.*`, `shared.<stage>.weight` (the alphas) and `heads.<task>.*`. All encoders run
    whatever tasks are asked for, as each goes into all. Unlike in the paper the encoders start from the same parameters, not
    from single-task networks, and the alphas train at the backbone's rate where theirs train 100 times as fast: put
    `{params: "shared.*", lr_scale: 100}` first in `strategy.rules` for that. They are not decayed.

    Arguments:
        self_weight: alpha_ii at the start, 0 to 1; the others share the rest evenly.
        per_channel: alphas for each channel, or one for each pair of tasks.

    Raises ConfigError for a backbone that cannot be cut into stages.
    """

    between_stages = True

    def __init__(
        self, self_weight: float = 0.9, per_channel: bool = True, *, encoder: Encoder, heads: dict[str, nn.Module]
    ) -> None:
        super().__init__()
        if not 0 <= self_weight <= 1:
            raise ConfigError(f"'sharing.self_weight' should be a share from 0 to 1. Found {self_weight}.")
        self.stages = stages(encoder, "cross_stitch")
        # Sorted, so that the alphas mean the same when the model is built again from a file that lists its tasks otherwise.
        self.backbone, self.heads = ByTask(copies(encoder.module, sorted(heads))), ByTask(heads)
        self.shared = nn.ModuleList(
            Stitch(len(heads), channels if per_channel else 1, self_weight) for channels in self.stages.channels
        )

    def forward(self, input: Any, tasks: Sequence[str], layers: Sequence[str] = ()) -> Output:
        with ExitStack() as stack:
            found = {task: stack.enter_context(recorded(self.backbone[task], layers)) for task in self.backbone}
            maps = dict.fromkeys(self.backbone, input)
            for number, stitch in enumerate(self.shared):
                made = [self.stages.run(self.backbone[task], number, map) for task, map in maps.items()]
                maps = dict(zip(maps, stitch(torch.stack(made)), strict=True))
            own = {t: Output(self.stages.features(self.backbone[t], map), found[t]) for t, map in maps.items()}
        return side_by_side({task: own[task] for task in tasks or own}, self.heads, tasks)


class Stitch(nn.Module):
    """Mixes maps (K, n, C, h, w) of K tasks by alpha (K, K, C), or by alpha (K, K) where `channels` is 1.

    With one task there is nothing to mix, and alpha is 1.
    """

    def __init__(self, tasks: int, channels: int, self_weight: float) -> None:
        super().__init__()
        mine, others = (self_weight, (1 - self_weight) / (tasks - 1)) if tasks > 1 else (1.0, 0.0)
        alpha = torch.full((tasks, tasks), others).fill_diagonal_(mine)
        self.shape = (tasks, tasks, channels)
        # Flat, like a norm's scale: weight decay, which is for matrices, would pull it towards no map at all.
        self.weight = nn.Parameter(alpha[:, :, None].repeat(1, 1, channels).flatten(), requires_grad=tasks > 1)

    def forward(self, maps: Tensor) -> Tensor:
        alpha = self.weight.view(self.shape).expand(-1, -1, maps.shape[2])
        return torch.einsum("ijc,jnchw->inchw", alpha, maps)
