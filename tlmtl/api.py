"""`tlmtl.run(cfg)`: what `tlmtl train` does with one config, for notebooks too."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from tlmtl import files, identity, stopping
from tlmtl.job import Result, execute
from tlmtl.pretrain import check, with_source
from tlmtl.progress import choose
from tlmtl.results import RunFolder, find_interrupted, new_folder, new_run_id
from tlmtl.resuming import resumed

log = logging.getLogger("tlmtl")


def run(cfg: DictConfig) -> Result:
    """Train and evaluate one config; go on with an interrupted run of the same config if there is one.

    Returns the rows (a DataFrame), the folder and the best model. Raises TlmtlError when the run cannot be done.
    """
    import pandas as pd

    with stopping.watching():
        if cfg.resume:
            cfg, path = resumed(cfg)
            check(cfg)
            cfg = with_source(cfg)
        else:
            check(cfg)  # what is wrong is told before anything is trained or written
            runs = files.make_folder(Path(cfg.output.root) / "runs", "output.root")
            cfg = with_source(cfg)
            path = _folder(cfg, runs)
            files.link(runs / "latest", path)
        model = execute(cfg, path, path.name, choose(cfg.progress, _strategy(cfg)))
    return Result(pd.read_csv(path / "results.csv"), path, model)


def _folder(cfg: DictConfig, runs: Path) -> Path:
    """The folder of an interrupted run of this config, or a new one."""
    key = identity.config_hash(cfg)
    path = find_interrupted(runs, key)
    if path is None:
        return new_folder(runs, new_run_id(_strategy(cfg), key))
    record = RunFolder(path).record
    if record.get("status") == "failed":
        log.info("Going on with the run in %s, which failed: %s", path, record.get("error"))
    else:
        log.info("Going on with the interrupted run in %s", path)
    return path


def _strategy(cfg: DictConfig) -> str:
    return cfg.composed.choices.get("strategy", "run")
