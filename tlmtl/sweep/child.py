"""One run of a sweep in a process of its own, and what it tells its parent.

Messages: ("began", bytes in memory), then what `progress.Messages` says, at the end ("ended", state, why, whether another
try may help). A process that ends without the last one was killed. Heavy imports stand inside: what cannot be imported
here is the run's failure, told like any other.
"""

import contextlib
import faulthandler
import multiprocessing as mp
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


def main(config: str, folder: str, run_id: str, pipe: Connection, judged: bool) -> None:
    """Train one run. Its output goes to the run's log.txt.

    Arguments:
        config: the run's config, as YAML.
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
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        with (path / "log.txt").open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        faulthandler.enable()
        pipe.send(("began", _memory()))
        state, why, again, code = _run(config, path, run_id, pipe, judged)
    except KeyboardInterrupt:
        state, why, again, code = "interrupted", "", False, 130
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        why = f"the process ended by exit code {code}" + (f": {error.code}" if isinstance(error.code, str) else "")
    except BaseException as error:
        why = f"{type(error).__name__}: {(str(error) or 'no more was said').splitlines()[0]}"
    with contextlib.suppress(OSError, ValueError):
        pipe.send(("ended", state, why, again))
    sys.exit(code)


def _run(config: str, path: Path, run_id: str, pipe: Connection, judged: bool) -> tuple[str, str, bool, int]:
    """State, why, whether another try may help, exit code."""
    from omegaconf import DictConfig, OmegaConf

    from tlmtl import job
    from tlmtl.errors import Pruned, TlmtlError
    from tlmtl.files import DiskError
    from tlmtl.progress import Messages

    cfg = OmegaConf.create(config)
    assert isinstance(cfg, DictConfig)
    try:
        job.execute(cfg, path, run_id, Messages(_kept_up(pipe.send), _kept_up(pipe.recv) if judged else None))
    except Pruned as error:
        return "pruned", str(error), False, 0
    except TlmtlError as error:
        stopped = error.exit_code in (75, 130)  # by a signal, with a checkpoint
        first = str(error).splitlines()[0]
        return "interrupted" if stopped else "failed", first, isinstance(error, DiskError), error.exit_code
    return "done", "", False, 0


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
