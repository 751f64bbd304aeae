"""`tlmtl.run(cfg)`: what `tlmtl train` does with one config, for notebooks too."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from tlmtl import files, hardware, identity, stopping
from tlmtl.assemble import assemble
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
    with stopping.watching():
        path = None
        if cfg.resume:
            cfg, path = resumed(cfg)
        parts = check(cfg)  # what is wrong is told before anything is trained or written
        runs = files.make_folder(Path(cfg.output.root) / "runs", "output.root") if path is None else None
        cfg = with_source(cfg)
        if runs is not None:
            path = _folder(cfg, runs)
            files.link(runs / "latest", path)
        assert path is not None
        memory = hardware.PeakMemory()
        parts = assemble(cfg, data_of=parts)
        model = execute(cfg, path, path.name, choose(cfg.progress, _strategy(cfg)), (parts, memory))
    import pandas as pd

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
