"""`sharing=mmoe`: experts that all tasks share, and a gate for each task that mixes them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tlmtl.models.by_task import ByTask
from tlmtl.models.encoder import Encoder, Output, encode
from tlmtl.sharing.base import Sharing, fresh
from tlmtl.sharing.experts import Gate, check_count, experts, mix


class MMoE(Sharing):
    """Task k's head takes sum_e g^k(x)_e f_e(x), with g^k(x) = softmax(W_k x).

    Ma, Zhao, Yi, Chen, Hong & Chi 2018, "Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts", section 4.2. Unlike in the paper x are the encoder's features (n, D), not the raw input, and the
    experts f_e are small networks D -> D, so that it goes with every backbone. Its parameters are called `backbone.*`,
    `shared.experts.<e>.*`, `shared.gates.<task>.*` and `heads.<task>.*`. `Output.features` are x.

    Arguments:
        experts: how many, 1 or more.
        hidden: units of an expert's inner layer.
    """

    def __init__(self, experts: int = 4, hidden: int = 128, *, encoder: Encoder, heads: dict[str, nn.Module]) -> None:
        super().__init__()
        check_count("experts", experts, 1)
        check_count("hidden", hidden, 1, 100_000)
        self.backbone, self.heads = encoder.module, ByTask(heads)
        self.shared = MixedExperts(list(heads), experts, encoder.feature_size, hidden)

    def forward(self, input: Any, tasks: Sequence[str], layers: Sequence[str] = ()) -> Output:
        output = encode(self.backbone, input, layers)
        mixed = self.shared(output.features, tasks)
        output.heads = {task: self.heads[task](mixed[task]) for task in tasks}
        return output


class MixedExperts(nn.Module):
    """Features (n, D) -> by task (n, D), the mixture that its gate makes of all experts."""

    def __init__(self, tasks: Sequence[str], count: int, size: int, hidden: int) -> None:
        super().__init__()
        self.experts = experts("mmoe", count, size, hidden)
        self.gates = ByTask({task: fresh(f"mmoe/gate/{task}", lambda: Gate(size, count)) for task in tasks})

    def forward(self, features: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        outputs = [expert(features) for expert in self.experts]
        return {task: mix(self.gates[task](features), outputs) for task in tasks}
