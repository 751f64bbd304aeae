"""The process that a sweep's runs are forked from: Python's fork server, but that it is itself a fork of this process.

So it need not import anything, and the data and source parameters that planning has read are in the memory of every run. That
cannot be where this process belongs to somebody else (a notebook, a test), or the system is not Linux: there Python starts a
server, which imports what runs need, and runs read their data themselves.
"""

import contextlib
import gc
import importlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver, resource_tracker, spawn, util
from typing import Any, NoReturn
from unittest import mock

from tlmtl import stopping, terminal

IMPORTS = ["tlmtl.job", "tlmtl.sweep.child", "pandas", "pyarrow.parquet", "psutil"]


def start() -> None:
    """Start the server where there is none yet.

    Call it before anything in this process trains or computes on more than one thread: no fork could do so any more.
    """
    forkserver.set_forkserver_preload(IMPORTS)
    with (
        _deaf(),
        _safe_path(),
        contextlib.suppress(OSError, EOFError),
    ):  # asked again, and said, when the first run is started
        if not forks():
            forkserver.ensure_running()
            return
        for name in [*IMPORTS, "tlmtl.together"]:
            with contextlib.suppress(Exception):  # a run that needs it says so
                importlib.import_module(name)
        resource_tracker.ensure_running()
        with mock.patch.object(util, "spawnv_passfds", _fork):
            forkserver.ensure_running()


@contextlib.contextmanager
def own_modules() -> Iterator[None]:
    """Within, a process that is started imports what it needs, and not the script that this one was started with: that would
    start a sweep of its own, unless it is written for it. Nor is it to start processes as this one does: joblib has a way of
    its own, which it would not know."""
    prepare = spawn.get_preparation_data
    left_out = ("init_main_from_name", "init_main_from_path", "start_method")

    def prepared(name: str) -> dict[str, Any]:
        return {key: value for key, value in prepare(name).items() if key not in left_out}

    with _safe_path(), mock.patch.object(spawn, "get_preparation_data", prepared):
        yield


def forks() -> bool:
    """Whether the server is a fork of this process."""
    return terminal.own and sys.platform == "linux"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within, torch computes on one thread: a process that has had more cannot be forked. And it asks the driver, not CUDA
    itself, whether there is a GPU: a fork of a process that has begun with CUDA cannot use it."""
    import torch

    before = torch.get_num_threads()
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Python's helpers are started by `python -c`, which would import what lies in the current folder under their names."""
    with mock.patch.dict(os.environ, PYTHONSAFEPATH="1"):
        yield


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """A terminal sends Ctrl-C to the server, too, which is to go on: it hears none from its first moment."""
    before = None
    with contextlib.suppress(ValueError):  # not in the main thread
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _fork(_path: bytes, args: Sequence[Any], inherited: Sequence[int]) -> int:
    """In place of `spawnv_passfds`: run the Python command at the end of `args` in a fork that holds no other files open."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    _serve(str(args[-1]), inherited)


def _serve(command: str, inherited: Sequence[int]) -> NoReturn:
    try:
        for file in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208
            if file > 2 and file not in inherited:
                with contextlib.suppress(OSError):
                    os.close(file)
        stopping.forget()
        log = logging.getLogger("tlmtl")
        log.handlers, log.propagate = [], True  # a run writes its own log
        gc.freeze()  # what is there stays: runs need not look through it for garbage, and share its memory as it is
        exec(command, {})
    finally:
        os._exit(0)
