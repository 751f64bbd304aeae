"""`sharing=mtan`: one encoder, of whose stages each task attends to what it needs."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.models.by_task import ByTask
from tlmtl.models.encoder import Encoder, Output, recorded
from tlmtl.models.stages import stages
from tlmtl.sharing.base import Sharing, fresh


class MTAN(Sharing):
    """For task i and stage j: a_i^j = h([u^j; f(a_i^(j-1) * u^(j-1))]), and the head takes the pooled a_i^J * u^J.

    Liu, Johns & Davison 2019, "End-to-End Multi-Task Learning with Attention", eqs. 1 and 2: the mask a is a sigmoid of two
    1x1 convolutions with batch norm (h), f a 3x3 convolution with batch norm and a pooling to the next stage's size. Its
    parameters are called `backbone.*`, `shared.<task>.<stage>.*` and `heads.<task>.*`. Unlike in the paper the mask of a stage
    is made from the map it masks, not from one in the middle of the stage. `Output.features` are the encoder's own.

    Arguments:
        reduction: the inner channels of a mask's convolutions are the stage's divided by this, 1 or more (theirs: 1).

    Raises ConfigError for a backbone that cannot be cut into stages.
    """

    between_stages = True

    def __init__(self, reduction: int = 4, *, encoder: Encoder, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        if reduction < 1:
            raise ConfigError(f"'sharing.reduction' should be 1 or more. Found {reduction}.")
        self.stages = stages(encoder, "mtan")
        self.backbone, self.heads = encoder.module, ByTask(heads)
        sizes = list(zip(self.stages.channels, [None, *self.stages.channels], strict=False))
        made = {
            task: [
                fresh(f"mtan/{task}/{stage}", partial(Attention, *size, reduction)) for stage, size in enumerate(sizes)
            ]
            for task in sorted(heads)  # a saved model's tasks come in this order
        }
        self.shared = ByTask({task: nn.ModuleList(modules) for task, modules in made.items()})

    def forward(self, input: Any, tasks: Sequence[str], layers: Sequence[str] = ()) -> Output:
        maps: list[Tensor] = []
        with recorded(self.backbone, layers) as found:
            for stage in range(len(self.stages)):
                maps.append(self.stages.run(self.backbone, stage, maps[-1] if maps else input))
            output = Output(self.stages.features(self.backbone, maps[-1]), found)
        for task in tasks:
            attended = self.stages.features(self.backbone, self.attend(task, maps))
            output.heads[task] = self.heads[task](attended)
        return output

    def attend(self, task: str, maps: Sequence[Tensor]) -> Tensor:
        """The last stage's map (n, C, h, w) under the task's mask, from the maps of all stages."""
        attended = None
        for module, map in zip(self.attention(task), maps, strict=True):
            attended = module(map, attended) * map
        assert attended is not None
        return attended

    def attention(self, task: str) -> list["Attention"]:
        """The attention modules of a task, by stage."""
        found = self.shared[task]
        assert isinstance(found, nn.ModuleList)
        return [module for module in found if isinstance(module, Attention)]


class Attention(nn.Module):
    """The mask (n, C, h, w), between 0 and 1, of a stage's map for one task.

    Arguments:
        channels: C of the stage.
        before: channels of the stage before it; None for the first.
    """

    def __init__(self, channels: int, before: int | None, reduction: int = 1) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        taken = channels if before is None else 2 * channels
        self.mask = nn.Sequential(
            nn.Conv2d(taken, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.Sigmoid(),
        )  # fmt: skip
        self.lead = None if before is None else nn.Sequential(
            nn.Conv2d(before, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )  # fmt: skip

    def forward(self, map: Tensor, attended: Tensor | None = None) -> Tensor:
        """
        Arguments:
            map: (n, C, h, w), what the stage gives.
            attended: (n, C', h', w'), the attended map of the stage before it.
        """
        if self.lead is None or attended is None:
            return self.mask(map)
        pooled = nn.functional.adaptive_max_pool2d(self.lead(attended), map.shape[-2:])
        return self.mask(torch.cat([map, pooled], 1))
