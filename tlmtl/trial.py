"""A trial of one format: a few steps and evaluations made by a copy of the run, and what they gave."""

import copy
import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tlmtl.models.encoder import evaluating
from tlmtl.sharing.base import Sharing
from tlmtl.training import Setup, State, Watch

STEPS = 2  # timed at a visit, after one that warms up
# How far a format may be from the plainest one: relative, in a step's losses and in an evaluation's outputs. The norm of one
# batch's gradient may be half or twice as large and no more: in 32 bits, too, pixels that changed by 2**-9 of themselves
# changed it by 7 to 128 % (docs/decisions.md), so that it shows gross faults alone.
TOLERANCE = {"loss": 0.02, "outputs": 0.1}
NORMS = 2.0
OWN = ("model", "terms", "weighting", "groups", "optimizer", "ema")  # what a step changes


@dataclass(frozen=True)
class Format:
    precision: str
    memory_format: str
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.precision}, {self.memory_format}" + (", compiled" if self.compiled else "")


@dataclass
class Work:
    """What a run has before it.

    Arguments:
        start: a step at which as much of the model trains as ever.
        steps: that train on images.
        evaluated: images that it evaluates on, each as often as it does.
    """

    start: int
    steps: int
    evaluated: int


@dataclass
class Seen:
    """What visits of one format gave: seconds of steps, seconds an image in evaluation, what the first step computed."""

    steps: list[float] = field(default_factory=list)
    visits: list[float] = field(default_factory=list)  # the fastest step of each
    evaluations: list[float] = field(default_factory=list)
    losses: Mapping[str, float] = field(default_factory=dict)
    norm: float = 0.0
    outputs: Tensor = field(default_factory=lambda: torch.zeros(0))
    apart: str = ""  # in what it does not agree with the plainest format

    def seconds(self, work: Work) -> float:
        """The run's predicted time. Other work on the machine only adds to what is measured, so the least is nearest."""
        return min(self.steps) * work.steps + min(self.evaluations) * work.evaluated


class LateError(Exception):
    pass


def copied(made: Setup, until: int) -> Setup:
    """A set-up that trains up to the step `until` and changes nothing of `made`: data alone are shared."""
    own = copy.deepcopy({name: getattr(made, name) for name in OWN})
    never = made.total + 1
    return dataclasses.replace(
        made, **own, until=until, clip=None, patience=None, evaluate_every=never, checkpoint_every=never
    )


@torch.inference_mode()
def evaluate(trial: Setup, seen: Seen) -> None:
    """Time the model on one batch of training images, as an evaluation has it."""
    name, draw = next(iter(trial.plan(0)[0].items()))
    stream = trial.streams[name]
    part = stream.part(draw).to(trial.device, trial.memory_format)
    model: Sharing = trial.model
    with evaluating(model):
        for warm in (False, *[True] * STEPS):
            began = time.perf_counter()
            with trial.autocast(), model.on(stream.part_name):
                heads = model(part.input, list(stream.mask)).heads
            _wait(trial.device)
            if warm:
                seen.evaluations.append((time.perf_counter() - began) / len(part.index))
    seen.outputs = torch.cat([said.float().flatten() for said in heads.values()]).cpu()


class Stopwatch(Watch):
    """Notes what each step but the first takes, and what the first computes."""

    def __init__(self, trial: Setup, seen: Seen, end: float) -> None:
        self.trial, self.seen, self.end = trial, seen, end
        self.steps = 0
        self.waited, self.began = 0.0, time.perf_counter()

    def stepped(self, state: State, losses: Mapping[str, float]) -> None:
        _wait(self.trial.device)
        # Batches made in the background keep a fast step waiting, whatever its format.
        waited = state.seconds["wait"] - self.waited if self.trial.lookahead else 0.0
        spent = time.perf_counter() - self.began - waited
        if self.steps:
            self.seen.steps.append(spent)
        else:
            gradients = [p.grad.float().norm() for p in self.trial.model.parameters() if p.grad is not None]
            self.seen.losses = dict(losses)
            self.seen.norm = float(torch.stack(gradients).norm()) if gradients else 0.0
        self.steps += 1
        self.waited, self.began = state.seconds["wait"], time.perf_counter()
        if self.began > self.end:
            raise LateError


def difference(plain: Seen, seen: Seen) -> str:
    """In what `seen` is farther from `plain` than the tolerance; "" where they agree."""
    for name, value in seen.losses.items():
        if not abs(value - plain.losses[name]) <= TOLERANCE["loss"] * max(abs(plain.losses[name]), 1e-6):
            return f"the loss of {name} is {value:.4g} in place of {plain.losses[name]:.4g}"
    if not max(seen.norm, plain.norm) <= NORMS * min(seen.norm, plain.norm):
        return f"the norm of the gradient is {seen.norm:.4g} in place of {plain.norm:.4g}"
    off = float((seen.outputs - plain.outputs).norm() / plain.outputs.norm().clamp_min(1e-12))
    if not off <= TOLERANCE["outputs"]:
        return f"the outputs of an evaluation are off by {off:.1%}"
    return ""


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
