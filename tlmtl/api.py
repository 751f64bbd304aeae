"""`tlmtl.run(cfg)`: what `tlmtl train` does with one config, for notebooks too."""

import logging
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from tlmtl import files, identity
from tlmtl.config import Config
from tlmtl.errors import ConfigError
from tlmtl.job import Result, execute
from tlmtl.pretrain import check, with_source
from tlmtl.progress import choose
from tlmtl.results import RunFolder, find_interrupted, new_folder, new_run_id

log = logging.getLogger("tlmtl")


def run(cfg: DictConfig) -> Result:
    """Train and evaluate one config; go on with an interrupted run of the same config if there is one.

    Returns the rows (a DataFrame), the folder and the best model. Raises TlmtlError when the run cannot be done.
    """
    import pandas as pd

    if cfg.resume:
        cfg, path = resumed(cfg)
    else:
        path = None
    check(cfg)  # what is wrong is told before anything is trained or written
    key = identity.config_hash(cfg)
    strategy = cfg.composed.choices.get("strategy", "run")
    runs = files.make_folder(Path(cfg.output.root) / "runs", "output.root")
    cfg = with_source(cfg)
    run_id = new_run_id(strategy, key)
    path = path or find_interrupted(runs, key)
    if path:
        log.info("Going on with the interrupted run in %s", path)
    else:
        path = new_folder(runs, run_id)
    files.link(runs / "latest", path)
    model = execute(cfg, path, path.name, choose(cfg.progress, strategy))
    return Result(pd.read_csv(path / "results.csv"), path, model)


def resumed(cfg: DictConfig) -> tuple[DictConfig, Path]:
    """The config and folder of the run that `resume=FOLDER` names. Raises ConfigError when there is nothing to resume."""
    path = Path(cfg.resume).expanduser().resolve()
    status = RunFolder(path).record.get("status")
    if status is None or not (path / "config.yaml").is_file():
        raise ConfigError(f"'resume' should be the folder of an interrupted run. Found no run in {cfg.resume}.")
    if status == "done":
        raise ConfigError(f"The run in {cfg.resume} is finished: there is nothing to resume.")
    own = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(path / "config.yaml"))
    assert isinstance(own, DictConfig)
    if list(own.allow) != list(cfg.allow):  # a config file is data: what it may import is said by the command alone
        raise ConfigError(
            f"That run was allowed to use {list(own.allow)}: give allow=[{','.join(own.allow)}] again to resume it."
        )
    own.output, own.progress = cfg.output, cfg.progress
    return own, path
