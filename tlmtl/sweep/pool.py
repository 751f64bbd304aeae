"""Runs a sweep's jobs, floor(cores / threads) at a time, in children of a fork server that has imported everything.

A child that raises, exits or is killed costs only its own run. No child outlives the parent, however that ends. No torch
operation may run in the fork server: only imports.
"""

import contextlib
import multiprocessing as mp
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tlmtl import hardware, job, results
from tlmtl.errors import TlmtlError
from tlmtl.sweep.plan import Job, Judge, More
from tlmtl.sweep.show import Board, board

PRELOAD = ["tlmtl.job", "tlmtl.sweep.pool", "torchvision", "torchmetrics.functional", "sklearn.datasets", "pandas"]
GRACE = 20.0  # seconds that children have to write down that they were interrupted


def run_jobs(jobs: Sequence[Job], judge: Judge | None = None, more: More | None = None) -> None:
    """Run `jobs` and set the state of each. Raises KeyboardInterrupt when it was stopped, with no child left.

    Arguments:
        more: called with each job that ended; the jobs it returns are run, too.
    """
    shown = list(jobs)  # the table's own list, which grows with `more`
    with board(shown, jobs[0].cfg.progress) as live:
        _run(list(jobs), _workers(list(jobs)), live, judge, lambda item: _added(shown, more, item))


def _added(shown: list[Job], more: More | None, ended: Job) -> list[Job]:
    new = more(ended) if more is not None else []
    shown += new
    return new


def _workers(jobs: list[Job]) -> int:
    cores = hardware.threads_of("auto", None)
    wanted = jobs[0].cfg.hardware.workers
    return max(1, min(len(jobs), wanted or cores // max(item.threads for item in jobs)))


def _run(jobs: list[Job], workers: int, shown: Board, judge: Judge | None, more: More) -> None:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    waiting, running = list(jobs), {}  # type: ignore[var-annotated]
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                item = waiting.pop(0)
                ours, theirs = context.Pipe()
                arguments = (OmegaConf.to_yaml(item.cfg), str(item.folder), item.run_id, theirs, judge is not None)
                process = context.Process(target=_child, args=arguments, daemon=False)
                process.start()
                theirs.close()
                item.state, running[process.sentinel] = "running", (item, process, ours, time.monotonic())
                shown.started(item)
            pipes: dict[Any, Job] = {ours: item for item, _, ours, _ in running.values() if not ours.closed}
            for ready in wait([*running, *pipes], timeout=0.5):
                if ready in pipes:
                    _listen(ready, pipes[ready], shown, judge)  # type: ignore[arg-type]
            for sentinel, (item, process, ours, began) in list(running.items()):
                if not process.is_alive():
                    process.join()
                    ours.close()
                    del running[sentinel]
                    _ended(item, process.exitcode)
                    shown.ended(item, time.monotonic() - began)
                    waiting += more(item)
    except KeyboardInterrupt:
        _stop([process for _, process, _, _ in running.values()])
        raise


def _listen(pipe: Connection, item: Job, shown: Board, judge: Judge | None) -> None:
    try:
        while pipe.poll():
            kind, *said = pipe.recv()
            if kind == "moved":
                shown.moved(item, *said)
            elif kind == "score":
                pipe.send(judge is not None and bool(judge(item, *said)))
    except (EOFError, OSError):
        pipe.close()


def _ended(item: Job, code: int | None) -> None:
    """Set the job's state from what its folder says, or from how its process ended when it could not say."""
    record = results.RunFolder(item.folder).record
    item.state = record.get("status", "failed")
    item.note = record.get("error") or ""
    if item.state not in ("done", "failed", "pruned"):
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        item.state, item.note = "failed", f"the process ended by {name}"
        with contextlib.suppress(OSError, TlmtlError):
            job.mark_failed(item.cfg, item.folder, item.run_id, item.note)


def _stop(processes: list[Any]) -> None:
    for process in processes:
        with contextlib.suppress(OSError, TypeError):
            os.kill(process.pid, signal.SIGINT)
    until = time.monotonic() + GRACE
    for process in processes:
        process.join(max(0.1, until - time.monotonic()))
        if process.is_alive():
            process.kill()


def _child(config: str, folder: str, run_id: str, pipe: Connection, judged: bool) -> None:
    """One run, in a process of its own. Its output goes to the run's log."""
    from tlmtl.progress import Messages

    with contextlib.suppress(OSError):
        os.setsid()  # Ctrl-C reaches the parent alone, which passes it on once
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    path = Path(folder)
    cfg = OmegaConf.create(config)
    assert isinstance(cfg, DictConfig)
    code = 1
    try:
        path.mkdir(parents=True, exist_ok=True)
        with (path / "log.txt").open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        job.execute(cfg, path, run_id, Messages(pipe.send, pipe.recv if judged else None))
        code = 0
    except KeyboardInterrupt:
        code = 130
    except TlmtlError as error:
        code = error.exit_code
    sys.exit(code)


def _die_with_parent() -> None:
    """Children keep the fork server alive, so they would outlive a parent that is killed."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os._exit(75)
