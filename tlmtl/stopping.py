"""Signals that ask a run to stop: what is at work finishes its step and writes a checkpoint, everything else ends at once.

Ctrl-C asks once and insists the second time. SIGTERM, SIGHUP and the signals that SLURM sends before a time limit
(`--signal=USR1@60`; submitit's USR2) ask as often as they come: schedulers repeat themselves.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tlmtl.errors import Interrupted, Preempted, Stopped

SIGNALS = [
    getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "HUP", "USR1", "USR2") if hasattr(signal, f"SIG{name}")
]


TWICE = "Ctrl-C again stops at once."


class AtOnce(KeyboardInterrupt):
    """Raised where the program stands when it is not to finish a step first; `watching` turns it into Stopped."""

    def __init__(self, number: int) -> None:
        super().__init__(_said(number))
        self.number = number


class Stop:
    """What was asked, and whether the one at work may finish its step first."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.patient = False
        self.quiet = False

    def handle(self, number: int, _frame: FrameType | None = None) -> None:
        """The signal handler."""
        again, self.asked = self.asked is not None, self.asked or number
        if again and number != signal.SIGINT:
            return
        if again or not self.patient:
            raise AtOnce(number)
        if not self.quiet:
            with contextlib.suppress(RuntimeError, OSError, ValueError):  # it may be printing, or have no one to tell
                print(
                    f"\n{_said(number)}: finishing this step, writing a checkpoint. {TWICE}",
                    file=sys.stderr,
                    flush=True,
                )

    @contextmanager
    def patiently(self, quiet: bool = False) -> Iterator[None]:
        """Within, a signal waits until `asked` is looked at; one that came meanwhile is not lost.

        Arguments:
            quiet: whether the caller tells the user itself what happens now.
        """
        before, (self.patient, self.quiet) = (self.patient, self.quiet), (True, quiet)
        try:
            yield
        finally:
            self.patient, self.quiet = before

    def error(self, where: str) -> Stopped | None:
        """What to raise when a stop was asked for, None otherwise.

        Arguments:
            where: what the message says after the reason, such as `after step 3 of 12`.
        """
        return None if self.asked is None else error_for(self.asked, f"{_said(self.asked)} {where}.")

    def check(self) -> None:
        """Stop here if that was asked for."""
        if self.asked is not None:
            raise AtOnce(self.asked)


_active: Stop | None = None


@contextmanager
def watching() -> Iterator[Stop]:
    """Take the signals for as long as the block lasts; the handlers of before are put back. May be nested.

    In another thread than the main one nothing is taken, as Python runs handlers in that one alone. A signal that is
    ignored (by `nohup`, say) stays ignored.

    Raises Stopped (Interrupted for Ctrl-C, Preempted for the others) in place of what was at work.
    """
    global _active
    if _active is not None or threading.current_thread() is not threading.main_thread():
        yield _active if threading.current_thread() is threading.main_thread() and _active else Stop()
        return
    stop, before = Stop(), {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    try:
        _active = stop
        for number in taken:
            signal.signal(number, stop.handle)
        yield stop
    except AtOnce as error:
        raise error_for(error.number, f"{error}.") from error
    finally:
        _active = None
        for number in taken:
            signal.signal(number, before[number])


def ignore() -> None:
    """Take no more signals: the process is about to end, with an exit code that says why."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def forget() -> None:
    """In a process that was forked from one that watches for signals: it is another, which may watch for its own."""
    global _active
    _active = None
    for number in SIGNALS:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)


def error_for(number: int, message: str) -> Stopped:
    return Interrupted(message) if number == signal.SIGINT else Preempted(message, number)


def _said(number: int) -> str:
    return "Interrupted" if number == signal.SIGINT else f"Stopped by {signal.Signals(number).name}"
