"""The seam for extra losses. A term is an ordinary module that returns one scalar per step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from tlmtl.data.streams import Part, Stream
from tlmtl.models.encoder import Encoder, Output
from tlmtl.tasks.base import Task


@dataclass(frozen=True)
class Needs:
    """What a term wants from the loop: further streams, layers of the backbone, the source model's outputs."""

    streams: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    source_model: bool = False


@dataclass
class Context:
    """What a term sees once, after the source parameters are in and before the first step."""

    model: nn.Module
    encoder: Encoder
    tasks: Mapping[str, Task]
    streams: Mapping[str, Stream]
    from_source: bool  # whether the model starts from source parameters


@dataclass
class Step:
    """What a term sees at each step."""

    model: nn.Module
    batch: Mapping[str, Part]
    outputs: Mapping[str, Output]  # by stream
    source_outputs: Mapping[str, Output]  # of the frozen source model, by stream; empty unless a term needs it
    number: int
    total: int
    weights: Mapping[str, float] = field(default_factory=dict)


class Term(nn.Module):
    """An extra scalar loss. It may own parameters; its state is checkpointed."""

    needs = Needs()

    def setup(self, context: Context) -> None:
        """Called once, after the source parameters are in. Raises ConfigError for what the term cannot work with."""

    def forward(self, step: Step) -> Tensor:
        raise NotImplementedError

    def after_validation(self, metrics: Mapping[str, Any]) -> None:
        """Called after each evaluation on validation, for terms that adapt."""


def layers_of(terms: Sequence[Term]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(layer for term in terms for layer in term.needs.layers))
