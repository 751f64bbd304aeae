"""Runs a planned sweep's jobs by a launcher of Hydra's ecosystem: joblib, submitit, ray.

The launcher is given the missing jobs alone, in place of Hydra's overrides and loader (`elsewhere.py`). What became of
them is read from their folders, so it does not matter on which machine they ran.
"""

import importlib.util
import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tlmtl import stopping
from tlmtl.errors import ConfigError
from tlmtl.sweep import elsewhere
from tlmtl.sweep.launcher import INSTALL, NEEDS, leaves_of
from tlmtl.sweep.plan import Job, Judge, More
from tlmtl.sweep.pool import workers_for
from tlmtl.sweep.show import Board, board
from tlmtl.sweep.watch import Watch, submitit_rest

log = logging.getLogger("tlmtl")


class Foreign:
    """A `Runner` that hands jobs to the launcher of `config.hydra.launcher`.

    Raises ConfigError when a package that the launcher needs is not installed.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config: Any = config
        self.told = False  # that nothing is pruned
        self.name = str(config.hydra.runtime.choices.get("hydra/launcher"))
        module = NEEDS.get(self.name, "hydra")
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"hydra/launcher={self.name} needs the package {module}, which is not installed: {INSTALL[self.name]}."
            )

        for key, value in leaves_of(OmegaConf.to_container(config.hydra.launcher, resolve=True), "hydra.launcher"):
            if "\n" in str(value):  # submitit quotes it, and yet it ends a line of SLURM's script
                raise ConfigError(f"'{key}' may not hold a line break: a shell would read on there. Found {value!r}.")

    def __call__(self, jobs: list[Job], judge: Judge | None = None, more: More | None = None) -> None:
        """Run `jobs`, then those that `more` asks for when all of them have ended, and so on.

        Raises ConfigError when the launcher starts none of them, and Stopped when the user stopped the sweep.
        """
        if judge is not None and not self.told:
            self.told = True
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
        watch = Watch(jobs, live, stop)
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
            stopped = asked.error(f"with {len(watch.unfinished())} run(s) to do")
            if stopped is not None:
                raise stopped
        if failure is not None and not watch.began:
            raise ConfigError(f"hydra/launcher={self.name} could not start the jobs: {_first_line(failure)}")
        for item in watch.unfinished():
            item.state = "failed"  # of this command; its folder says interrupted, or nothing
            why = _first_line(failure) if failure else item.note or "its process was ended"
            item.note = f"did not come to its end: {why} The same command goes on with it."

    def _launch(self, jobs: list[Job], watch: Watch, stop: Path) -> None:
        config = self.config.copy()
        config.hydra.sweep.dir = str(stop.parent)  # where launchers keep what is theirs, such as submitit's own logs
        # submitit's local one has no queue: it would start a whole sweep at once.
        size = workers_for(jobs) if self.name == "submitit_local" else len(jobs)
        if self.name == "joblib" and _one_worker(config.hydra.launcher.n_jobs):
            config.hydra.launcher.n_jobs, size = 2, 1  # alone, joblib would run them in this very process
        launcher = _instantiate(config)
        failure: Exception | None = None
        for batch in _batches(jobs, size):
            if stop.exists():
                break
            try:
                returned = launcher.launch([[_as_text(item, watch.began_before(item), stop)] for item in batch], 0)
            except Exception as error:
                if not watch.began:
                    raise  # it can start none
                if hasattr(launcher, "params"):
                    submitit_rest(launcher.params["submitit_folder"], self.name)
                failure = error
                continue
            for item, what in zip(batch, returned, strict=True):
                if isinstance(what._return_value, Exception):
                    item.note = _first_line(what._return_value)
        if failure is not None:
            raise failure


def _one_worker(n_jobs: int) -> bool:
    import joblib

    return joblib.effective_n_jobs(n_jobs) == 1


def _batches(jobs: list[Job], size: int) -> list[list[Job]]:
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


def _instantiate(config: Any) -> Any:
    """The launcher that `config` names, set up with this program's own task, and nothing that only this process knows."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    context = HydraContext(config_loader=elsewhere.Loader(), callbacks=Callbacks())  # type: ignore[arg-type]
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=elsewhere.run, config=config
    )
    launcher.setup(hydra_context=context, task_function=elsewhere.run, config=_bare(config))
    return launcher


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
    return f"{type(error).__name__}: {text if text.endswith(('.', '?', '!')) else text + '.'}"
