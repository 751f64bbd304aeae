"""Runs a planned sweep's jobs by a launcher of Hydra's ecosystem (joblib, submitit, ray), each in its own folder."""

from typing import Any

from omegaconf import DictConfig

from tlmtl.errors import ConfigError
from tlmtl.sweep.plan import Job, Judge


class Foreign:
    """A `Runner` that hands jobs to the launcher of `config.hydra.launcher`."""

    def __init__(self, config: DictConfig) -> None:
        self.config: Any = config

    def __call__(self, jobs: list[Job], judge: Judge | None = None) -> None:
        raise ConfigError(f"The launcher {self.config.hydra.launcher.get('_target_')} cannot be used yet.")
