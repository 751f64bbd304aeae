"""`sharing=hard`: one encoder for all tasks."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from tlmtl.models.by_task import ByTask
from tlmtl.models.encoder import Encoder, Output, encode
from tlmtl.sharing.base import Sharing


class HardSharing(Sharing):
    """One backbone, one head for each task (Caruana 1997, "Multitask Learning").

    Its parameters are called `backbone.*` and `heads.<task>.*`.
    """

    one_feature = True

    def __init__(self, encoder: Encoder, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.backbone, self.heads = encoder.module, ByTask(heads)

    def forward(self, input: Any, tasks: Sequence[str], layers: Sequence[str] = ()) -> Output:
        output = encode(self.backbone, input, layers)
        output.heads = {task: self.heads[task](output.features) for task in tasks}
        return output
