"""What a training loop is given (`Setup`), what changes as it goes (`State`), and who looks on (`Watch`)."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from tlmtl.data.streams import Stream
from tlmtl.models.encoder import Output
from tlmtl.optim import Groups
from tlmtl.tasks.base import Task
from tlmtl.terms.base import Term
from tlmtl.weighting.base import Weighting


@dataclass
class Setup:
    """What stays the same for the whole run. Durations are in steps."""

    model: nn.Module
    tasks: Mapping[str, Task]
    streams: Mapping[str, Stream]  # training streams; "target" is the one an epoch goes through
    validation: Stream
    weighting: Weighting
    terms: Mapping[str, Term]
    groups: Groups
    optimizer: Optimizer
    total: int
    steps_per_epoch: int
    batch_size: int
    evaluate_every: int
    checkpoint_every: int
    seed: int
    autocast: Callable[[], AbstractContextManager]
    device: torch.device
    memory_format: torch.memory_format = torch.contiguous_format
    forward: Callable[..., Output] | None = None  # a compiled model
    source_model: nn.Module | None = None  # the frozen source backbone, where a term needs it
    accumulate: int = 1
    clip: float | None = None
    patience: int | None = None
    lookahead: int = 0  # batches prepared in the background
    ema: AveragedModel | None = None
    draw_weights: Tensor | None = None  # (n,): how likely each training example is drawn; None: each once an epoch


@dataclass
class State:
    """What changes from step to step, beside model and optimizer. All of it is in a checkpoint."""

    step: int = 0
    stopped: bool = False
    best_score: float = -math.inf
    best_step: int = 0
    best_model: dict[str, Tensor] = field(default_factory=dict)
    history: list[list[Any]] = field(default_factory=list)  # step, epoch, split, task, name, value
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)  # losses since the last evaluation, how many
    examples: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "eval": 0.0, "wait": 0.0})


class Watch:
    """What looks on while a run trains. The default sees and does nothing."""

    def stepped(self, state: State, losses: Mapping[str, float]) -> None: ...

    def evaluated(self, state: State, metrics: Mapping[str, Mapping[str, float]], score: float) -> None: ...

    def save(self, state: State) -> None: ...
