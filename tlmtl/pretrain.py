"""`source=pretrain`: train the model on a source data set first, once, and keep it under its hash for all runs."""

import logging
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

import tlmtl
from tlmtl import files, identity
from tlmtl.assemble import Assembly, assemble
from tlmtl.config import Config, check_dataset
from tlmtl.data.parts import streams_of, together
from tlmtl.errors import ConfigError
from tlmtl.job import execute
from tlmtl.progress import choose
from tlmtl.results import RunFolder, new_run_id
from tlmtl.store.inuse import hold

log = logging.getLogger("tlmtl")


def with_source(cfg: DictConfig, before_training: Callable[[], object] = lambda: None) -> DictConfig:
    """`cfg` with its pre-trained source in place (`source.path`), trained now if it is not in the cache.

    Two processes that ask at once train it once: the second waits. Configs without such a source come back as they are.

    Arguments:
        before_training: called before a source is trained here.
    """
    if not pretrains(cfg):
        return cfg
    job = source_config(cfg)
    path, key = _place(cfg, job)
    if not _there(path):
        before_training()
        files.make_folder(path.parent, "output.cache")
        with FileLock(path.with_name(f"{path.name}.lock")):
            if not _there(path):
                label = f"pre-training {cfg.composed.choices.get('model', 'the model')} on the source data"
                log.info("%s (once; kept in %s)", label, path)
                execute(job, path, new_run_id("pretrain", key), choose(cfg.progress, label))
    hold(path)
    ready = cfg.copy()
    OmegaConf.update(ready, "source.path", str(path), force_add=True)
    return ready


def pretrains(cfg: DictConfig) -> bool:
    """Whether the run needs a source that is trained by this program."""
    return "dataset" in cfg.source and identity.needs_source(cfg)


def kept(cfg: DictConfig) -> str | None:
    """The folder of the pre-trained source that `cfg` needs, or None when it is still to be trained."""
    path, _ = _place(cfg, source_config(cfg))
    return str(path) if _there(path) else None


def _place(cfg: DictConfig, job: DictConfig) -> tuple[Path, str]:
    """Where the source that `job` makes is kept, and its config's hash."""
    place, key = files.cache_folder(cfg.output.cache), identity.config_hash(job)
    streams = streams_of(job.dataset, job.tasks, list(job.allow), place)
    return place / "sources" / f"{key}_{together(data.hash for data in streams.values())}", key


def _there(path: Path) -> bool:
    record = RunFolder(path).record
    return record.get("status") == "done" and record.get("tlmtl") == tlmtl.__version__


def check(cfg: DictConfig) -> Assembly:
    """Build what `cfg` names, and what its source's pre-training would where that is still to be done, without training
    anything.

    Raises ConfigError for what is wrong with either.
    """
    parts = assemble(cfg, with_source=False)
    if pretrains(cfg):
        try:
            if kept(cfg) is None:
                assemble(source_config(cfg), with_source=False)
        except ConfigError as error:
            raise ConfigError(f"In the pre-training of the source (keys under 'source.'): {error}") from error
    return parts


def source_config(cfg: DictConfig) -> DictConfig:
    """The config of the run that makes the source: the model and hardware of `cfg`, all else from `cfg.source`."""
    node = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(node, dict)
    source = node["source"]
    check_dataset(cfg.source.dataset, "source.dataset")  # so that its keys are told in full
    job = OmegaConf.merge(
        OmegaConf.structured(Config),
        {
            **{key: node[key] for key in ("model", "hardware", "allow", "progress")},
            "weighting": {"_target_": "tlmtl.weighting.static.Sum"},
            "fusion": {"_target_": "tlmtl.fusion.no_fusion"},
            "sharing": {"_target_": "tlmtl.sharing.hard.HardSharing"},  # one source for every sharing of the target's
            "source": {"_target_": "tlmtl.models.source.no_source"},
            **{key: source[key] for key in ("dataset", "optimizer", "schedule", "train")},
            "strategy": {"init": "random", "rules": [{"params": "*"}]},
            "tasks": source.get("tasks", "default"),
            "seed": source["seed"],
            "composed": {"choices": {"strategy": "pretrain", "model": cfg.composed.choices.get("model")}},
        },
    )
    assert isinstance(job, DictConfig)
    return job
