"""How long a run's steps and evaluations take in each format: a few real ones, made by copies of the run, which itself stays as
it is."""

import copy
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tlmtl import checkpoint
from tlmtl.errors import Stopped
from tlmtl.hardware import Machine
from tlmtl.loop import fit
from tlmtl.models.encoder import evaluating
from tlmtl.sharing.base import Sharing
from tlmtl.training import Setup, State, Watch

log = logging.getLogger("tlmtl")
STEPS = 2  # timed at a visit, after one that warms up
ROUNDS = 3  # visits of each format, one format after another, as what else the machine does comes and goes
SHARE = 0.03  # of the predicted run that timing may take
LEAST = 60.0  # seconds that a run should last to be worth it
FEWEST = 150  # steps: of fewer, the first two and an evaluation are that share already
GAIN = 0.05  # what another format than the usual one should save at least: less is noise
UNREST = (
    1.5  # how much longer the fastest step of one visit may take than that of another: more, and other work decides
)
COMPILING = 120.0  # seconds that compiling may take, twice what was measured (docs/performance.md)
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


@dataclass
class Timing:
    """What came of timing: the format to run in, and what to write down of it."""

    chosen: Format
    line: str
    record: dict[str, Any]


class Formats:
    """Times the formats of a run that is set up as `made`, and chooses one.

    Arguments:
        make: the machine in a format.
        wrap: a set-up in the format of a machine.
        usual: the format that the run has without timing.
    """

    def __init__(
        self, made: Setup, make: Callable[[Format], Machine], wrap: Callable[[Setup, Machine], Setup], usual: Format
    ) -> None:
        self.made, self.make, self.wrap, self.usual = made, make, wrap, usual
        self.seen: dict[Format, Seen] = {}
        self.began = time.perf_counter()
        self.longest = 0.0  # seconds of a visit
        self.complete = False  # whether there was time for every format
        self.trusted = True  # whether it is worth keeping

    @property
    def spent(self) -> float:
        return time.perf_counter() - self.began

    def choose(self, formats: Sequence[Format], work: Work, compiling: bool) -> Timing:
        """The fastest of `formats`, the plainest first, that agrees with that one.

        Arguments:
            compiling: whether the fastest is to be tried compiled as well, if the run is long.
        """
        plain = formats[0]
        if work.steps < FEWEST:
            return self._end(self.usual, work, f"{work.steps} step(s) on images are too few to time other formats")
        self._visit(plain, work, 1)
        if why := self.seen[plain].apart:  # what is wrong with the run itself is told where it fails
            return self._end(self.usual, work, f"a step could not be timed ({why})")
        predicted = self.seen[plain].seconds(work)
        if predicted < LEAST:
            return self._end(self.usual, work, f"about {predicted:.0f} s are too short a run to time other formats")
        limit = SHARE * predicted
        for _ in range(ROUNDS):
            for format in formats:
                apart = format in self.seen and self.seen[format].apart
                if not apart and self.spent + self.longest < limit:
                    self._visit(format, work, STEPS, limit)
        slowest, fastest = self._unrest()
        if slowest > UNREST * fastest:
            self.trusted = False
            busy = f"other work on this machine made the same step take {fastest * 1e3:.0f} to {slowest * 1e3:.0f} ms"
            return self._end(self.usual, work, f"{busy}, so that timing says nothing")
        best = self._best(work)
        self.complete = all(format in self.seen for format in formats) and not compiling
        if compiling and limit - self.spent > COMPILING:
            self.complete = True
            self._visit(dataclasses.replace(best, compiled=True), work, 2 * STEPS, limit)
            best = self._best(work)
        return self._end(best, work, "")

    def _unrest(self) -> tuple[float, float]:
        """The fastest step of the slowest and of the fastest visit, of the format in which they differ most."""
        several = [(max(one.visits), min(one.visits)) for one in self.seen.values() if not one.apart]
        return max(several, key=lambda pair: pair[0] / pair[1])

    def _best(self, work: Work) -> Format:
        """The usual format, unless another one that agrees saves enough."""
        if self.usual not in self.seen:
            return self.usual
        agreed = {format: seen.seconds(work) for format, seen in self.seen.items() if not seen.apart}
        best = min(agreed, key=lambda format: agreed[format])
        usual = agreed.get(self.usual, float("inf"))
        return best if agreed[best] < (1 - GAIN) * usual else self.usual

    def _end(self, chosen: Format, work: Work, why: str) -> Timing:
        rows = [
            {
                **dataclasses.asdict(format),
                "seconds_per_step": min(seen.steps, default=None),
                "seconds_per_evaluated_image": min(seen.evaluations, default=None),
                "apart": seen.apart or None,
            }
            for format, seen in self.seen.items()
        ]
        plain = next(iter(self.seen.values()), None)
        predicted = plain.seconds(work) if plain and plain.steps else None
        record = {
            "formats": rows,
            "seconds": self.spent,
            "predicted_seconds": predicted,
            "steps": work.steps,
            "complete": self.complete,
            "trusted": self.trusted,
        }
        line = f"{chosen}: {why}." if why else self._line(chosen, predicted or 0.0)
        return Timing(chosen, line, record)

    def _line(self, chosen: Format, predicted: float) -> str:
        plain, then = next(iter(self.seen.items()))
        about = f"Timed {len(self.seen)} format(s) in {self.spent:.1f} s ({self.spent / predicted:.1%} of the run)"
        apart = "".join(f" {format} does not agree: {seen.apart}." for format, seen in self.seen.items() if seen.apart)
        if chosen not in self.seen:
            return f"{chosen}: timing the others would take too large a part of the run."
        now, before = min(self.seen[chosen].steps), min(then.steps)
        if chosen == plain:
            return f"{about}: {chosen} is the fastest, {now * 1e3:.0f} ms a step.{apart}"
        return (
            f"{about}: {chosen} takes {now * 1e3:.0f} ms a step, {before / now:.2f} times as fast as {plain} "
            f"({before * 1e3:.0f} ms).{apart}"
        )

    def _visit(self, format: Format, work: Work, steps: int, limit: float = math.inf) -> None:
        """Time an evaluation and `steps` steps in `format`, each after one that warms up, and compare what they give; none that
        would begin when timing has taken `limit` seconds."""
        began = time.perf_counter()
        seen = self.seen.setdefault(format, Seen())
        before = len(seen.steps)
        try:
            with _as_it_was():
                trial = self.wrap(copied(self.made, work.start + steps + 1), self.make(format))
                if not format.compiled:  # whatever the run will be: compiling takes longer than timing may
                    trial = dataclasses.replace(trial, forward=None)
                _evaluate(trial, seen)
                watch = _Stopwatch(trial, seen, self.began + limit)
                fit(trial, State(step=work.start), watch)
        except _LateError:
            pass
        except Stopped:
            raise
        except Exception as error:  # a format that this machine, this torch or this model does not take
            seen.apart = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if not seen.steps and not seen.apart:
            del self.seen[format]  # there was no time for it
            return
        seen.visits += [min(seen.steps[before:])] if seen.steps[before:] else []
        seen.apart = seen.apart or _apart(next(iter(self.seen.values())), seen)
        self.longest = max(self.longest, (time.perf_counter() - began) * (STEPS + 1) / (steps + 1))


class _LateError(Exception):
    pass


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Random states are put back."""
    state = checkpoint.random_state()
    try:
        yield
    finally:
        checkpoint.set_random_state(state)


def copied(made: Setup, until: int) -> Setup:
    """A set-up that trains up to the step `until` and changes nothing of `made`: data alone are shared."""
    own = copy.deepcopy({name: getattr(made, name) for name in OWN})
    never = made.total + 1
    return dataclasses.replace(
        made, **own, until=until, clip=None, patience=None, evaluate_every=never, checkpoint_every=never
    )


@torch.inference_mode()
def _evaluate(trial: Setup, seen: Seen) -> None:
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


class _Stopwatch(Watch):
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
            raise _LateError


def _apart(plain: Seen, seen: Seen) -> str:
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
