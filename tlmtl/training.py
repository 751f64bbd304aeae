"""What a training loop is given (`Setup`), what changes as it goes (`State`), and who looks on (`Watch`)."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from tlmtl.branches import Branches
from tlmtl.data.streams import Stream
from tlmtl.errors import TrainingError
from tlmtl.models.encoder import Output
from tlmtl.optim import Groups
from tlmtl.sharing.base import Sharing
from tlmtl.tasks.base import Task
from tlmtl.terms.base import Term
from tlmtl.weighting.base import Weighting


@dataclass
class Setup:
    """What stays the same for the whole run. Durations are in steps."""

    model: Sharing
    tasks: Mapping[str, Task]  # of all streams
    streams: Mapping[str, Stream]  # training streams, each with the tasks of its data set
    validation: Mapping[str, Stream]
    plan: Callable[[int], list[dict[str, Tensor]]]  # what each step of an epoch draws from the streams
    weighting: Weighting
    terms: Mapping[str, Term]
    groups: Groups
    optimizer: Optimizer
    total: int
    steps_per_epoch: int
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
    until: int | None = (
        None  # the step before which this set-up's training ends, where the run has another one after it
    )
    branches: Branches = field(init=False)

    def __post_init__(self) -> None:
        self.branches = Branches(self.model, self.groups.constant)


@dataclass
class State:
    """What changes from step to step, beside model and optimizer. All of it is in a checkpoint."""

    step: int = 0
    stopped: list[str] = field(default_factory=list)  # branches that train no more
    best_score: dict[str, float] = field(default_factory=dict)  # by branch
    best_step: dict[str, int] = field(default_factory=dict)
    best_model: dict[str, Tensor] = field(default_factory=dict)
    history: list[list[Any]] = field(default_factory=list)  # step, epoch, split, task, name, value
    # since the last evaluation, by name ("loss", "weight") and task: sum and number
    sums: dict[str, dict[str, tuple[float, int]]] = field(default_factory=dict)
    examples: int = 0
    labels: dict[str, int] = field(default_factory=dict)  # by task, how many labelled examples were seen
    chosen: dict[str, str] = field(default_factory=dict)  # by task, the settings that a solver chose by validation
    seconds: dict[str, float] = field(default_factory=lambda: {"train": 0.0, "eval": 0.0, "wait": 0.0})

    def note(self, name: str, values: Mapping[str, float]) -> None:
        """Add to the sums that the next evaluation writes into the history."""
        sums = self.sums.setdefault(name, {})
        for task, value in values.items():
            total, count = sums.get(task, (0.0, 0))
            sums[task] = (total + value, count + 1)


class Watch:
    """What looks on while a run trains. The default sees and does nothing."""

    def stepped(self, state: State, losses: Mapping[str, float]) -> None: ...

    def evaluated(self, state: State, metrics: Mapping[str, Mapping[str, float]], scores: Mapping[str, float]) -> None:
        """Metrics by task; what the best epoch is chosen by, by branch."""

    def save(self, state: State) -> None: ...

    def stop_asked(self, state: State) -> Exception | None:
        """Asked at each step's end: what to raise there, once the state is saved; None to go on."""
        return None


def not_finite(what: str, value: float, step: int, total: int) -> TrainingError:
    """Why a run ends whose loss is infinite or no number."""
    return TrainingError(
        f"{what} became {value} at step {step} of {total}. A smaller optimizer.lr, train.clip=1.0 or a longer "
        "schedule.warmup may help."
    )
