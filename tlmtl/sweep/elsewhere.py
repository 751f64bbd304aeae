"""One planned job in a process that another launcher started, on this machine or a different one.

The process runs a pool of one job, so a run is the same wherever it is run: it has a child of its own, its limits and its
tries, its output goes to its log.txt, and its end, also a violent one, is in its folder. Nothing here needs Hydra's
config or plugins: what a launcher pickles has to unpickle where only this package is installed.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

LOOK = 0.5  # seconds between two looks at whether the sweep is to stop
LOCKED = 2.0  # seconds between two looks at a folder that another process is at work in


class Loader:
    """In place of Hydra's config loader: what a launcher takes for a job's overrides is one text, the job itself."""

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        config = master_config.copy()
        config.hydra.sweep.subdir = json.loads(sweep_overrides[0])["key"]
        config.job = sweep_overrides[0].encode()  # bytes: interpolations in it are not its reader's
        return config


def run(config: DictConfig) -> None:
    """Hydra's task function: train the job in `config.job`, a JSON object with `config` (YAML), `folder`, `label`, `key`,
    `threads`, `reason`, `began` (when the run in the folder had begun that is to be replaced), `cwd`, and `stop` (a file
    whose being there ends the job).

    Raises ConfigError when the sweep's working folder is not here. A run that fails has its row in its folder, and raises
    nothing.
    """
    from tlmtl.errors import ConfigError, Stopped
    from tlmtl.sweep.plan import Job
    from tlmtl.sweep.pool import run_jobs

    said: dict[str, Any] = json.loads(config.job)
    folder, stop = Path(said["folder"]), Path(said["stop"])
    try:
        os.chdir(said["cwd"])  # paths in the config may be relative to it
    except OSError as error:
        raise ConfigError(
            f"The folder of the command, {said['cwd']}, is not on {os.uname().nodename}: {error.strerror}. A launcher for "
            "several machines needs it, output.root and output.cache on a file system that all of them share."
        ) from error
    cfg = OmegaConf.create(said["config"])
    assert isinstance(cfg, DictConfig)
    if cfg.allow and said["cwd"] not in sys.path:
        sys.path.insert(0, said["cwd"])  # where a user's own package lies
    if stop.exists() or _finished_meanwhile(folder, said["began"], stop):
        return
    job = Job(cfg, said["label"], said["key"], folder, said["threads"], said["reason"])
    slurm, requeue = os.environ.get("SUBMITIT_EXECUTOR") == "slurm", signal.getsignal(signal.SIGUSR2)
    left_alone = [signal.SIGINT, signal.SIGTERM] if slurm else [signal.SIGINT]
    try:
        with _silent(), _ignoring(left_alone), _told_to_stop(stop):
            run_jobs([job])
    except Stopped as error:
        if slurm and getattr(error, "signal", None) == signal.SIGUSR2 and callable(requeue):
            requeue(signal.SIGUSR2, None)  # submitit's own answer to a time limit: the job goes back into the queue


def _finished_meanwhile(folder: Path, began: str | None, stop: Path) -> bool:
    """Whether a process of another command ended this run since it was planned; one that is at work is waited for."""
    from tlmtl.errors import ConfigError
    from tlmtl.results import RunFolder

    while not stop.exists():
        with contextlib.suppress(ConfigError), RunFolder(folder) as held:
            return held.record.get("status") == "done" and held.record.get("started") != began
        time.sleep(LOCKED)
    return True


@contextmanager
def _silent() -> Iterator[None]:
    """What the pool says of its one job is for no one: the command that planned the sweep says it."""
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stderr(nowhere),
        contextlib.redirect_stdout(nowhere),
    ):
        yield


@contextmanager
def _ignoring(signals: Sequence[int]) -> Iterator[None]:
    """Ctrl-C is left to the command that planned the sweep, as a terminal sends it to all processes of it; and in SLURM,
    as submitit has it, SIGTERM to the scheduler, which sends SIGUSR2 beside it when a job may go on later.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _told_to_stop(file: Path) -> Iterator[None]:
    """End what runs within by a signal, which it answers with a checkpoint, as soon as `file` is there."""
    from tlmtl.stopping import watching

    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK):
            if file.exists():
                os.kill(os.getpid(), signal.SIGUSR1)
                return

    watcher = threading.Thread(target=look, daemon=True)
    with watching():
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
