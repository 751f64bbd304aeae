"""How long a run's steps and evaluations take in each format: a few real ones, made by copies of the run, which itself stays as
it is."""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tlmtl import checkpoint
from tlmtl.errors import Stopped
from tlmtl.hardware import Machine
from tlmtl.loop import fit
from tlmtl.training import Setup, State
from tlmtl.trial import STEPS, Format, LateError, Seen, Stopwatch, Work, copied, difference, evaluate

log = logging.getLogger("tlmtl")
ROUNDS = 3  # visits of each format, one format after another, as what else the machine does comes and goes
SHARE = 0.03  # of the predicted run that timing may take
LEAST = 60.0  # seconds that a run should last to be worth it
FEWEST = 150  # steps: of fewer, the first two and an evaluation are that share already
GAIN = 0.05  # what another format than the usual one should save at least: less is noise
UNREST = (
    1.5  # how much longer the fastest step of one visit may take than that of another: more, and other work decides
)
COMPILING = 120.0  # seconds that compiling may take, twice what was measured (docs/performance.md)


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
                evaluate(trial, seen)
                watch = Stopwatch(trial, seen, self.began + limit)
                fit(trial, State(step=work.start), watch)
        except LateError:
            pass
        except Stopped:
            raise
        except Exception as error:  # a format that this machine, this torch or this model does not take
            seen.apart = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        if not seen.steps and not seen.apart:
            del self.seen[format]  # there was no time for it
            return
        seen.visits += [min(seen.steps[before:])] if seen.steps[before:] else []
        seen.apart = seen.apart or difference(next(iter(self.seen.values())), seen)
        self.longest = max(self.longest, (time.perf_counter() - began) * (STEPS + 1) / (steps + 1))


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Random states are put back."""
    state = checkpoint.random_state()
    try:
        yield
    finally:
        checkpoint.set_random_state(state)
