"""The only Hydra launcher: plans a sweep's jobs together, then runs what is missing in child processes.

Hydra 1.3 takes launchers only from the namespace `hydra_plugins`, which it finds by walking folders; that fails in an
editable install, so this module is registered under such a name by hand.
"""

import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

if TYPE_CHECKING:
    from tlmtl.sweep.plan import Sweep


class TlmtlLauncher(Launcher):
    finish: Callable[..., DictConfig]  # turns what Hydra composed into a checked config; given by `register`

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Any, initial_job_idx: int) -> list[JobReturn]:
        """Run every job of the sweep. Raises ConfigError before the first one starts if any is wrong."""
        from tlmtl.sweep.pool import run_jobs
        from tlmtl.sweep.run import run_sweep

        if run_sweep(self.plan(job_overrides), run_jobs):
            raise SystemExit(1)  # every run has had its turn, and what failed has been said
        return [JobReturn(overrides=list(job), status=JobStatus.COMPLETED) for job in job_overrides]

    def plan(self, job_overrides: Any) -> "Sweep":
        """The checked jobs of the sweep, each with its folder and whether it is to be run."""
        from tlmtl.sweep.plan import plan_sweep

        configs = []
        for number, overrides in enumerate(job_overrides):
            cfg = self.loader.load_sweep_config(self.config, list(overrides))
            cfg.hydra.job.num = number
            configs.append(type(self).finish(cfg, list(overrides)))
        varied = _varied([list(overrides) for overrides in job_overrides])
        labels = [" ".join(item.lstrip("+") for item in job if _key(item) in varied) for job in job_overrides]
        return plan_sweep(configs, labels, varied)


def _key(override: str) -> str:
    return override.split("=")[0]


def _varied(jobs: list[list[str]]) -> list[str]:
    """The keys that were swept: Hydra hands every override to every job."""
    keys = [_key(item) for item in jobs[0]] if jobs else []
    return [key for i, key in enumerate(keys) if len({job[i] for job in jobs}) > 1]


TlmtlLauncher.__module__ = "hydra_plugins.tlmtl"


@dataclass
class LauncherConfig:
    _target_: str = "hydra_plugins.tlmtl.TlmtlLauncher"


def register(finish: Callable[..., DictConfig]) -> None:
    """Make the launcher known to Hydra as `hydra/launcher=tlmtl`. May be called twice."""
    TlmtlLauncher.finish = staticmethod(finish)
    try:
        import hydra_plugins
    except ImportError:
        hydra_plugins = sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
        hydra_plugins.__path__ = []
    hydra_plugins.tlmtl = sys.modules["hydra_plugins.tlmtl"] = sys.modules[__name__]
    Plugins.instance().register(TlmtlLauncher)
    ConfigStore.instance().store(group="hydra/launcher", name="tlmtl", node=LauncherConfig, provider="tlmtl")
