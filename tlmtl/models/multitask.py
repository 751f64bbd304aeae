"""How tasks share the encoder. `sharing=hard` is one encoder for all."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from tlmtl.models.encoder import Encoder, Output, encode


class HardSharing(nn.Module):
    """One backbone, one head for each task (Caruana 1997, "Multitask Learning").

    Its parameters are called `backbone.*` and `heads.<task>.*`.
    """

    def __init__(self, encoder: Encoder, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        self.backbone, self.heads = encoder.module, nn.ModuleDict(heads)

    def forward(self, input: Any, tasks: Sequence[str], layers: Sequence[str] = ()) -> Output:
        """Outputs of the heads of `tasks`, each (n, outputs), beside the features and `layers` they came from."""
        output = encode(self.backbone, input, layers)
        output.heads = {task: self.heads[task](output.features) for task in tasks}
        return output
