"""What Hydra knows of a search: `hydra/sweeper=optuna` and its settings. Optuna is imported when a search begins."""

import sys
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from omegaconf import MISSING, OmegaConf

from tlmtl.sweep.launcher import launcher_for


class OptunaSweeper(Sweeper):
    """Takes the keys of hydra-optuna-sweeper, which stands on Optuna 2 and cannot be installed beside a current one."""

    def __init__(self, params: Any = None, **settings: Any) -> None:
        self.params, self.settings = params or {}, settings

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.planner = launcher_for(config, hydra_context, task_function)

    def sweep(self, arguments: list[str]) -> Any:
        from tlmtl.search.samplers import need_optuna

        need_optuna()
        from tlmtl.search.run import Settings, search

        plain = {key: _plain(value) for key, value in self.settings.items()}
        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        if search(self.planner, words, Settings(**plain)):
            raise SystemExit(1)  # every trial has had its turn, and what failed has been said


def _plain(node: Any) -> Any:
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node


OptunaSweeper.__module__ = "hydra_plugins.tlmtl_search"


@dataclass
class OptunaConfig:
    _target_: str = "hydra_plugins.tlmtl_search.OptunaSweeper"
    defaults: list[Any] = field(default_factory=lambda: [{"sampler": "tpe"}, {"pruner": "median"}])
    n_trials: Any = 20
    n_jobs: Any = None
    direction: Any = "maximize"
    study_name: str | None = None
    storage: str | None = None
    sampler: Any = MISSING
    pruner: Any = MISSING
    params: dict[str, Any] | None = None


CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "sampler": {
        "tpe": {"n_startup_trials": 10, "multivariate": False, "seed": None},
        **{name: {"seed": None} for name in ("random", "cmaes", "qmc", "gp")},
        "grid": {},
    },
    "pruner": {"median": {"n_startup_trials": 5, "n_warmup_steps": 20}, "none": {}},
}


def register() -> None:
    """Make Hydra know `hydra/sweeper=optuna`. May be called twice, after `launcher.register`."""
    name = OptunaSweeper.__module__  # made up, as the launcher's is; `launcher.register` has seen to the package
    sys.modules[name] = sys.modules[__name__]
    setattr(sys.modules["hydra_plugins"], name.rpartition(".")[2], sys.modules[__name__])
    Plugins.instance().register(OptunaSweeper)
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="optuna", node=OptunaConfig, provider="tlmtl")
    for group, members in CHOICES.items():
        for name, node in members.items():
            store.store(group=f"hydra/sweeper/{group}", name=name, node={"name": name, **node}, provider="tlmtl")
