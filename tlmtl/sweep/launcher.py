"""Where Hydra hands a sweep over: its jobs are planned here together, then what is missing is run by the pool or by the
launcher that `hydra/launcher` names.

Hydra 1.3 takes launchers and sweepers only from the namespace `hydra_plugins`, which it finds by walking folders; that
fails in an editable install, so this module is registered under such a name by hand.
"""

import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from tlmtl.errors import ConfigError
from tlmtl.sweep import server

if TYPE_CHECKING:
    from tlmtl.sweep.plan import Sweep
    from tlmtl.sweep.run import Runner

OWN = "hydra_plugins.tlmtl.TlmtlLauncher"
CLUSTER = "`pip install 'tlmtl[cluster]'`"
INSTALL = {
    "joblib": CLUSTER,
    "submitit_local": CLUSTER,
    "submitit_slurm": CLUSTER,
    "ray": "`pip install 'tlmtl[ray]'` and `pip install --no-deps hydra-ray-launcher`",
}
NEEDS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}  # by the plugins
# Settings of launchers that are commands for a shell, or name code or machines that a job is handed to.
TRUSTED = ("setup", "additional_parameters", "runtime_env", "address", "temp_folder")


class TlmtlLauncher(Launcher):
    finish: Callable[..., DictConfig]  # turns what Hydra composed into a checked config; given by `register`

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.loader, self.config = hydra_context.config_loader, config

    def launch(self, job_overrides: Any, initial_job_idx: int) -> list[JobReturn]:
        """Run every job of the sweep. Raises ConfigError before the first one starts if any is wrong."""
        runner = self.runner  # first: what is not installed is said before anything starts
        with server.quiet():
            self._launch(job_overrides, runner)
        return [JobReturn(overrides=list(job), status=JobStatus.COMPLETED) for job in job_overrides]

    def _launch(self, job_overrides: Any, runner: "Runner") -> None:
        from tlmtl.sweep.run import run_sweep

        if self.compose(list(job_overrides[0])).tune.trials is not None:
            from tlmtl.search.samplers import need_optuna

            need_optuna()
            from tlmtl.search.fair import fair

            failed = fair(self, job_overrides)
        else:
            failed = run_sweep(self.plan(job_overrides), runner)
        if failed:
            raise SystemExit(1)  # every run has had its turn, and what failed has been said

    @property
    def runner(self) -> "Runner":
        """What runs the planned jobs: the pool, or the launcher that was chosen instead of it."""
        if self.config.hydra.launcher.get("_target_") == OWN:
            from tlmtl.sweep.pool import run_jobs

            return run_jobs
        from tlmtl.sweep.foreign import Foreign

        return Foreign(self.config)

    def compose(self, overrides: list[str], number: int = 0) -> DictConfig:
        """The checked config of one job."""
        cfg = self.loader.load_sweep_config(self.config, overrides)
        cfg.hydra.job.num = number
        return type(self).finish(cfg, overrides)

    def plan(self, job_overrides: Any) -> "Sweep":
        """The checked jobs of the sweep, each with its folder and whether it is to be run."""
        from tlmtl.sweep.compose import Composer
        from tlmtl.sweep.plan import plan_sweep

        compose = Composer(self.compose)
        configs = [compose(list(overrides), number) for number, overrides in enumerate(job_overrides)]
        swept = varied([list(overrides) for overrides in job_overrides])
        labels = [" ".join(item.lstrip("+") for item in job if _key(item) in swept) for job in job_overrides]
        return plan_sweep(configs, labels, swept)


def launcher_for(config: DictConfig, hydra_context: Any, task_function: Any) -> TlmtlLauncher:
    """What a sweeper calls in its `setup`, whichever `hydra/launcher` was chosen: `plan()` gives the checked jobs of lists
    of overrides, `runner` runs them: `run_sweep(launcher.plan(jobs), launcher.runner, judge)`, or `launch()` for both.

    A runner that is not the pool does not ask its judge: nothing is pruned there.
    """
    launcher = TlmtlLauncher()
    launcher.setup(hydra_context=hydra_context, task_function=task_function, config=config)
    return launcher


def check_launcher(node: Any, typed: list[str]) -> None:
    """Raises ConfigError for a launcher that cannot be given planned jobs, and for settings of one that a config file, which
    may be a stranger's, may not have.

    Arguments:
        node: Hydra's own config.
        typed: the overrides of the command line.
    """
    name, target = node.runtime.choices.get("hydra/launcher"), str(node.launcher.get("_target_"))
    if target == OWN:
        return
    if target.startswith("hydra._internal.") or "ray_aws" in target:
        raise ConfigError(f"hydra/launcher={name} is not supported. There are tlmtl, {', '.join(INSTALL)}.")
    if not str(node.sweeper.get("_target_")).startswith("hydra_plugins.tlmtl"):
        raise ConfigError(
            f"hydra/launcher={name} needs a sweeper that plans with this program. Found hydra/sweeper="
            f"{node.runtime.choices.get('hydra/sweeper')}; there are tlmtl and optuna."
        )
    for key, value in leaves_of(OmegaConf.to_container(node.launcher, resolve=False), "hydra.launcher"):
        said = any(key.startswith(word.partition("=")[0].lstrip("+")) for word in typed if "hydra.launcher" in word)
        if value not in (None, "", "auto", [], {}) and not said and set(key.split(".")) & set(TRUSTED):
            raise ConfigError(
                f"'{key}' may only be set on the command line: a config file is data, which may be a stranger's. "
                f"Found {value!r}."
            )


def leaves_of(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from leaves_of(value, f"{key}.{name}")
    else:
        yield key, node


class TlmtlSweeper(Sweeper):
    """Takes what Hydra's own sweeper takes, but that launchers are given only what was planned here."""

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None) -> None:
        self.max_batch_size, self.params = max_batch_size, params or {}

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.loader, self.planner = hydra_context.config_loader, launcher_for(config, hydra_context, task_function)

    def sweep(self, arguments: list[str]) -> Any:
        # Here, since Hydra loads its own plugins anew when it looks for them.
        from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        overrides = OverridesParser.create(config_loader=self.loader).parse_overrides(words)
        if any(one.is_sweep_override() and not one.is_discrete_sweep() for one in overrides):
            raise ConfigError(
                "An interval cannot be swept, only searched: hydra/sweeper=optuna draws from it, and so does tune.space.KEY "
                "with tune.trials. A sweep takes lists and ranges."
            )
        returned: list[JobReturn] = []
        for batch in BasicSweeper.split_arguments(overrides, self.max_batch_size):
            returned += self.planner.launch(batch, len(returned))
        return returned


def _key(override: str) -> str:
    return override.split("=")[0]


def varied(jobs: list[list[str]]) -> list[str]:
    """The keys that were swept: Hydra hands every override to every job."""
    keys = [_key(item) for item in jobs[0]] if jobs else []
    return [key for i, key in enumerate(keys) if len({job[i] for job in jobs}) > 1]


TlmtlLauncher.__module__ = TlmtlSweeper.__module__ = "hydra_plugins.tlmtl"


@dataclass
class LauncherConfig:
    _target_: str = OWN


@dataclass
class SweeperConfig:
    _target_: str = "hydra_plugins.tlmtl.TlmtlSweeper"
    max_batch_size: int | None = None
    params: dict[str, Any] | None = None


def register(finish: Callable[..., DictConfig]) -> None:
    """Make Hydra know `hydra/launcher=tlmtl` and `hydra/sweeper=tlmtl`. May be called twice.

    They also take the place of Hydra's own, called `basic`, which is what a config has that names none: a config that named
    ours would not leave the choice to an experiment.
    """
    TlmtlLauncher.finish = staticmethod(finish)
    try:
        import hydra_plugins
    except ImportError:
        hydra_plugins = sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
        hydra_plugins.__path__ = []
    hydra_plugins.tlmtl = sys.modules["hydra_plugins.tlmtl"] = sys.modules[__name__]
    for group, plugin, config in (
        ("launcher", TlmtlLauncher, LauncherConfig),
        ("sweeper", TlmtlSweeper, SweeperConfig),
    ):
        Plugins.instance().register(plugin)  # which has Hydra find its own first
        for name in ("tlmtl", "basic"):
            ConfigStore.instance().store(group=f"hydra/{group}", name=name, node=config, provider="tlmtl")
