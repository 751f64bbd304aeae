"""One run of a sweep in a process of its own, or many that are trained together, and what it tells its parent.

Messages: ("began", 0, bytes in memory), then what `progress.Messages` says of each run, with the run's number in second place,
at its end ("ended", number, state, why, whether another try may help); ("apart", 0, why) when runs cannot go on together. A
process that ends without one of the last two was killed. Heavy imports stand inside: what cannot be imported here is the
run's failure, told like any other.
"""

import contextlib
import faulthandler
import multiprocessing as mp
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

Work = tuple[Any, str, str, dict[str, str]]  # a run's config, its folder, its id, hashes of its config


def main(work: list[Work], pipe: Connection, judged: bool) -> None:
    """Train the runs of a unit. What they print goes to the log.txt of the first.

    Arguments:
        judged: whether the parent is to be asked, at each validation, if the run ends there.
    """
    with contextlib.suppress(OSError):
        os.setsid()  # Ctrl-C reaches the parent alone, which passes it on once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the parent says stop by these two, though it may ignore them itself
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):  # out of memory, the system ends a run and not the sweep
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    state, why, again, code = "failed", "", True, 1
    try:
        path = Path(work[0][1])
        path.mkdir(parents=True, exist_ok=True)
        with (path / "log.txt").open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        faulthandler.enable()
        pipe.send(("began", 0, _memory()))
        state, why, again, code = _run(work[0], pipe, judged) if len(work) == 1 else _run_together(work, pipe)
    except KeyboardInterrupt:
        state, why, again, code = "interrupted", "", False, 130
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        why = f"the process ended by exit code {code}" + (f": {error.code}" if isinstance(error.code, str) else "")
    except BaseException as error:
        why = f"{type(error).__name__}: {(str(error) or 'no more was said').splitlines()[0]}"
        if len(work) > 1:
            traceback.print_exc()  # into a log.txt: the user hears of it only if it happens to a run alone as well
    with contextlib.suppress(OSError, ValueError):
        if len(work) == 1:
            pipe.send(("ended", 0, state, why, again))
        elif state == "failed":
            pipe.send(("apart", 0, why))
    sys.exit(code)


def _run(work: Work, pipe: Connection, judged: bool) -> tuple[str, str, bool, int]:
    """State, why, whether another try may help, exit code."""
    from tlmtl import job
    from tlmtl.errors import Pruned, TlmtlError
    from tlmtl.progress import Messages

    config, folder, run_id, _ = work
    try:
        told = Messages(_numbered(pipe, 0), _kept_up(pipe.recv) if judged else None)
        job.execute(config, Path(folder), run_id, told)
    except Pruned as error:
        return "pruned", str(error), False, 0
    except TlmtlError as error:
        return *_ended(error), error.exit_code
    return "done", "", False, 0


def _run_together(work: list[Work], pipe: Connection) -> tuple[str, str, bool, int]:
    """As `_run`, of the process: each run's own end is told when it comes, and one of which none is told is to be run alone."""
    from tlmtl.errors import Stopped
    from tlmtl.progress import Messages
    from tlmtl.together import Planned, execute_together

    def ended(number: int, error: BaseException | None) -> None:
        _kept_up(pipe.send)(("ended", number, *(("done", "", False) if error is None else _ended(error))))

    planned = [
        Planned(config, Path(folder), run_id, Messages(_numbered(pipe, number)), ids)
        for number, (config, folder, run_id, ids) in enumerate(work)
    ]
    try:
        execute_together(planned, ended)
    except Stopped as error:
        return "interrupted", "", False, error.exit_code
    return "done", "", False, 0


def _ended(error: BaseException) -> tuple[str, str, bool]:
    """State, why, whether another try may help."""
    from tlmtl.errors import TlmtlError
    from tlmtl.files import DiskError

    first = (str(error) or "no more was said").splitlines()[0]
    if not isinstance(error, TlmtlError):
        return "failed", f"{type(error).__name__}: {first}", True
    stopped = error.exit_code in (75, 130)  # by a signal, with a checkpoint
    return "interrupted" if stopped else "failed", first, isinstance(error, DiskError)


def _numbered(pipe: Connection, number: int) -> Callable[..., Any]:
    """Sends what is said with the number of the run that says it in second place."""
    return _kept_up(lambda said: pipe.send((said[0], number, *said[1:])))


def _kept_up(ask: Callable[..., Any]) -> Callable[..., Any]:
    """`ask`, but that a parent which is gone is no error of the run's: it is interrupted."""

    def asked(*said: Any) -> Any:
        try:
            return ask(*said)
        except (OSError, EOFError):
            raise KeyboardInterrupt from None

    return asked


def _memory() -> int:
    import psutil

    return psutil.Process().memory_info().rss


def _die_with_parent() -> None:
    """Children keep the fork server alive, so they would outlive a parent that is killed."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(75)
