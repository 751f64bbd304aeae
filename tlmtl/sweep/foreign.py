"""Runs a planned sweep's jobs by a launcher of Hydra's ecosystem: joblib, submitit, ray.

The launcher is given the missing jobs alone, in place of Hydra's overrides and loader (`elsewhere.py`). What became of
them is read from their folders, so it does not matter on which machine they ran.
"""

import importlib.util
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tlmtl import stopping
from tlmtl.errors import ConfigError, TlmtlError
from tlmtl.results import RunFolder, read_rows
from tlmtl.sweep import elsewhere
from tlmtl.sweep.plan import Job, Judge, More
from tlmtl.sweep.show import Board, board

log = logging.getLogger("tlmtl")

ENDED = ("done", "failed", "pruned", "interrupted")
RAY = "`pip install 'tlmtl[ray]'` and `pip install --no-deps hydra-ray-launcher`"
INSTALL = {  # by the launcher's name: the module it needs besides its plugin, and how to get both
    "joblib": ("joblib", "`pip install 'tlmtl[cluster]'`"),
    "submitit_local": ("submitit", "`pip install 'tlmtl[cluster]'`"),
    "submitit_slurm": ("submitit", "`pip install 'tlmtl[cluster]'`"),
    "ray": ("ray", RAY),
}


class Foreign:
    """A `Runner` that hands jobs to the launcher of `config.hydra.launcher`.

    Raises ConfigError when a package that the launcher needs is not installed.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config: Any = config
        self.name = str(config.hydra.runtime.choices.get("hydra/launcher"))
        module, how = INSTALL.get(self.name, ("hydra", ""))
        if importlib.util.find_spec(module) is None:
            raise ConfigError(f"hydra/launcher={self.name} needs the package {module}, which is not installed: {how}.")

    def __call__(self, jobs: list[Job], judge: Judge | None = None, more: More | None = None) -> None:
        """Run `jobs`, then those that `more` asks for when all of them have ended, and so on.

        Raises ConfigError when the launcher starts none of them, and Stopped when the user stopped the sweep.
        """
        if judge is not None:
            log.info("With hydra/launcher=%s no run is ended early: that is for hydra/launcher=tlmtl.", self.name)
        shown = list(jobs)
        with board(shown, jobs[0].cfg.progress, self._at_once(len(jobs))) as live:
            while jobs:
                self._run(jobs, live)
                jobs = [new for item in jobs for new in more(item)] if more is not None else []
                shown += jobs

    def _at_once(self, jobs: int) -> int:
        """How many runs are at work at a time, as well as can be known: for the time left alone."""
        settings = self.config.hydra.launcher
        said = settings.get("n_jobs") or settings.get("array_parallelism") or jobs
        return min(jobs, said if said > 0 else os.cpu_count() or 1)

    def _run(self, jobs: list[Job], live: Board) -> None:
        stop = jobs[0].folder.resolve().parent / f".stop-{uuid.uuid4().hex[:8]}"
        watch = _Watch(jobs, live, stop)
        failure: Exception | None = None
        with stopping.watching() as asked:
            with asked.patiently(), watch.looking(asked):
                try:
                    self._launch(jobs, watch, stop)
                except ImportError as error:
                    raise ConfigError(f"hydra/launcher={self.name} cannot be imported: {error}.") from error
                except Exception as error:
                    failure = error
                    log.debug("the launcher's error", exc_info=error)
            stop.unlink(missing_ok=True)
            if error := asked.error(f"with {len(watch.unfinished())} run(s) to do; the same command goes on with them"):
                raise error
        if failure is not None and not watch.began:
            raise ConfigError(f"hydra/launcher={self.name} could not start the jobs: {_first_line(failure)}")
        for item in watch.unfinished():
            item.state = "failed"  # of this command; its folder says interrupted, or nothing
            why = _first_line(failure) if failure else item.note or "its process was ended"
            item.note = f"did not come to its end: {why} The same command goes on with it."

    def _launch(self, jobs: list[Job], watch: "_Watch", stop: Path) -> None:
        from hydra._internal.callbacks import Callbacks
        from hydra.core.plugins import Plugins
        from hydra.types import HydraContext

        config = self.config.copy()
        config.hydra.sweep.dir = str(stop.parent)  # where launchers keep what is theirs, such as submitit's own logs
        launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=None,
            task_function=elsewhere.run,
            config=config,  # type: ignore[arg-type]
        )
        context = HydraContext(config_loader=elsewhere.Loader(), callbacks=Callbacks())  # type: ignore[arg-type]
        launcher.setup(hydra_context=context, task_function=elsewhere.run, config=_bare(config))
        returned = launcher.launch([[_as_text(item, watch.began_before(item), stop)] for item in jobs], 0)
        for item, what in zip(jobs, returned, strict=True):
            error = what._return_value
            if isinstance(error, Exception):
                item.note = _first_line(error)
                if isinstance(error, TlmtlError):
                    log.error("%s: %s", item.label, error)


def _bare(config: DictConfig) -> DictConfig:
    """The little of Hydra's own config that launchers look at when they run a job; nothing that only this process knows."""
    from hydra.conf import HydraConf

    hydra: Any = OmegaConf.structured(HydraConf)
    hydra.sweep.dir, hydra.sweep.subdir = config.hydra.sweep.dir, "."
    hydra.job.name, hydra.job.chdir, hydra.output_subdir = config.hydra.job.name, False, None
    hydra.hydra_logging = hydra.job_logging = {"version": 1, "root": None}
    return OmegaConf.create({"hydra": hydra, "job": b""})


def _as_text(item: Job, began: str | None, stop: Path) -> str:
    return json.dumps(
        {
            "config": OmegaConf.to_yaml(item.cfg), "folder": str(item.folder.resolve()), "label": item.label,
            "key": item.key, "threads": item.threads, "reason": item.reason, "began": began,
            "cwd": str(Path.cwd()), "stop": str(stop),
        }
    )  # fmt: skip


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    text = lines[0].strip() if lines else "no more was said"
    return f"{type(error).__name__}: {text if text.endswith('.') else text + '.'}"


class _Watch:
    """Looks at the folders of jobs that run elsewhere, and tells the board."""

    def __init__(self, jobs: list[Job], live: Board, stop: Path) -> None:
        self.jobs, self.live, self.stop = jobs, live, stop
        self.before = {item.key: RunFolder(item.folder).record for item in jobs}
        self.stamp = {item.key: _stamp(item.folder) for item in jobs}
        self.since: dict[str, float] = {}
        self.over: set[str] = set()

    @property
    def began(self) -> bool:
        return bool(self.since)

    def began_before(self, item: Job) -> str | None:
        return self.before[item.key].get("started")

    def unfinished(self) -> list[Job]:
        return [item for item in self.jobs if item.state not in ("done", "failed", "pruned")]

    @contextmanager
    def looking(self, asked: stopping.Stop) -> Iterator[None]:
        """Look twice a second while the block lasts, and once after it; write the stop file when a stop is asked for."""
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.5):
                if asked.asked is not None and not self.stop.exists():
                    self.stop.touch()
                self.look()
                self.live.tick()

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.look()

    def look(self) -> None:
        for item in self.jobs:
            if item.key in self.over or _stamp(item.folder) == self.stamp[item.key]:
                continue
            record = RunFolder(item.folder).record
            status = record.get("status")
            if item.key not in self.since:
                self.since[item.key] = time.monotonic()
                item.state = "running"
                self.live.started(item)
            if status in ENDED:
                self.over.add(item.key)
                item.state, item.note = status, record.get("error") or ""
                self.live.moved(item, item.steps, item.steps, _validation(item.folder))
                self.live.ended(item, time.monotonic() - self.since[item.key])


def _stamp(folder: Path) -> int:
    try:
        return os.stat(folder / "run.json").st_mtime_ns  # noqa: PTH116
    except OSError:
        return 0


def _validation(folder: Path) -> str:
    """A run's first metric on validation, as the pool's lines show it."""
    try:
        rows = read_rows(folder / "results.csv")
    except OSError:
        return ""
    found = ((name[4:], value) for row in rows for name, value in row.items() if name.startswith("val/") and value)
    return next((f"{name} {float(value):.3f}" for name, value in found if name != "loss"), "")
