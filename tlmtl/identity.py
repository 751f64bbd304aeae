"""What makes two runs, two repeats, two sweeps the same. Everything about repeats, resumes and sweeps stands on it."""

import copy
import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tlmtl.columns import SHOWN
from tlmtl.config import find_target

# What cannot change a result.
IGNORED = ("hydra", "sweep", "tune", "logger", "output", "resume", "progress", "allow", "composed")
# The same, of settings within a group.
IGNORED_IN = (
    "hardware.workers", "hardware.images_mb", "features.memory_mb", "train.checkpoint_every",
    "source.train.checkpoint_every",
)  # fmt: skip
# What of a task that is not chosen has a part in reading the data.
READ = ("kind", "target")
# What concerns a linear head alone.
OF_HEADS = (
    "seed", "head.init", "head.dropout", "optimizer.lr", "optimizer.weight_decay", "schedule", "train.epochs", "train.clip",
    "train.early_stopping", "train.evaluate_every", "dataset.labels_per_class", "dataset.label_fraction", "dataset.subset_seed",
)  # fmt: skip
NO_SEED = -(2**62) - 1  # no seed is below 0
HARD = "tlmtl.sharing.hard.HardSharing"


def config_hash(cfg: DictConfig) -> str:
    """The same for two configs that must give the same result: settings that cannot matter are taken out first."""
    return _hash(_of_the_tasks(_what_matters(cfg)))


def group_id(cfg: DictConfig) -> str:
    """The same for the repeats of one experiment: the seed is taken out before it can spread by interpolation."""
    return _hash(_of_the_tasks(_without_seed(cfg)))


def baseline_id(cfg: DictConfig) -> str:
    """The same for runs that differ in nothing but seed, tasks, their weights, sharing and weighting: those that show what
    sharing gained or cost a task."""
    return _hash(_of_any_tasks(_without_seed(cfg)))


def ids(cfg: DictConfig) -> dict[str, str]:
    """The hashes that a run's record and rows hold, at less than the cost of asking for each."""
    return ids_and_backbone(cfg)[0]


def ids_and_backbone(cfg: DictConfig) -> tuple[dict[str, str], str]:
    """`ids` and `backbone_id`, at less than the cost of asking for each."""
    found, unseeded = _what_matters(cfg), _without_seed(cfg)
    config = _hash(_of_the_tasks(copy.deepcopy(found)))
    group = _hash(_of_the_tasks(copy.deepcopy(unseeded)))
    hashes = {"config_hash": config, "group_id": group, "baseline_id": _hash(_of_any_tasks(unseeded))}
    return hashes, _backbone_hash(cfg, found)


def backbone_id(cfg: DictConfig) -> str:
    """The same for runs that differ in nothing but what concerns a head: how it begins, how it learns, and from which of the
    labelled examples."""
    return _backbone_hash(cfg, _what_matters(cfg))


def _backbone_hash(cfg: DictConfig, found: dict[str, Any]) -> str:
    for key in OF_HEADS:
        _drop(found, key)
    return _hash([found, OmegaConf.to_container(cfg.output, resolve=True), list(cfg.allow)])


def sweep_name(cfg: DictConfig, swept: list[str], search: Any = None) -> str:
    """A sweep's folder: what is not swept plus the swept keys, so that a command that grew finds the runs it has.

    Arguments:
        cfg: the config before the swept values are set.
        swept: keys of values (`seed`) or groups (`strategy`, `dataset@source.dataset`).
        search: what a search draws from and how; how often is no part of it.
    """
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    for key in (*IGNORED, *IGNORED_IN, *swept):
        _drop(raw, key.lstrip("+~").split("@")[-1].replace("/", "."))
    return _hash([raw, sorted(swept), *([search] if search else [])])[:10]


def terms_of(cfg: DictConfig) -> dict[str, Any]:
    """The terms in force: those of the strategy and those of `term=[...]` together."""
    return {**cfg.strategy.terms, **cfg.term}


def needs_source(cfg: DictConfig) -> bool:
    """Whether anything of the source reaches the run: its parameters at the start, or its model through a term."""
    if cfg.strategy.init == "source":
        return True
    return any(find_target(t, "term", f"term.{n}", cfg.allow).needs.source_model for n, t in terms_of(cfg).items())


def unused(cfg: DictConfig) -> tuple[str, ...]:
    """Keys, whole sections among them, that cannot change a result because the strategy's heads are found without the loop."""
    node = cfg.strategy.get("solver")
    return () if node is None else find_target(node, "solver", "strategy.solver", cfg.allow).ignores


def chosen_tasks(cfg: DictConfig) -> list[str]:
    from tlmtl.data.labels import select_tasks  # which imports torch; a config is composed and checked without it

    node = cfg.dataset
    return select_tasks(cfg.tasks, node.get("tasks", {}), list(node.get("default_tasks", [])))


def settings(cfg: DictConfig) -> dict[str, Any]:
    """The columns of a row that say what was set."""
    choices, source = cfg.composed.choices, needs_source(cfg)
    overrides = [item for item in cfg.composed.overrides if source or not item.lstrip("~").startswith("source.")]
    tasks = chosen_tasks(cfg)
    overrides = [item for item in overrides if not _of_another_task(item, tasks)]
    ignored = unused(cfg)
    overrides = [item for item in overrides if not _below(item.split("=")[0].lstrip("+~"), ignored)]
    weighed = len(tasks) > 1 and not _separates(cfg) and "weighting" not in ignored
    if not weighed or find_target(cfg.weighting, "weighting", "weighting", cfg.allow).scalar:
        overrides = [item for item in overrides if not item.startswith("weighting.level=")]
    if not weighed:
        overrides = [item for item in overrides if not item.lstrip("~").startswith("weighting.")]
    shown = {
        "model": choices.get("model"),
        "source": choices.get("source") if source else "none",
        "strategy": choices.get("strategy"),
        "tasks": "+".join(tasks),
        "sharing": choices.get("sharing"),
        "weighting": choices.get("weighting") if weighed else None,
        "terms": "+".join(sorted(terms_of(cfg))) or None,
        "overrides": "; ".join(json.dumps(item, ensure_ascii=False) if ";" in item else item for item in overrides)
        or None,
        "seed": cfg.seed,
        "labels_per_class": cfg.dataset.get("labels_per_class"),
        "label_fraction": cfg.dataset.get("label_fraction"),
        "epochs": cfg.train.epochs,
        "batch_size": cfg.train.batch_size,
        "optimizer": _optimizer(cfg),
        "lr": cfg.optimizer.get("lr"),
        "weight_decay": cfg.optimizer.get("weight_decay"),
    }
    keys = {"optimizer": "optimizer", **{column: key for key, column in SHOWN.items()}}
    return {name: None if _below(keys.get(name, ""), ignored) else value for name, value in shown.items()}


def _below(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in sections)


def _of_another_task(override: str, tasks: list[str]) -> bool:
    """Whether it sets what only a task that is not chosen would use."""
    *path, name, key = ["", "", *override.split("=")[0].lstrip("~").split(".")]
    return path[2:] == ["dataset", "tasks"] and name not in tasks and key not in READ


def _separates(cfg: DictConfig) -> bool:
    """Whether every task has a model of its own, so that a weighting has nothing to weigh."""
    return find_target(cfg.sharing, "sharing", "sharing", cfg.allow).separate


def _optimizer(cfg: DictConfig) -> str | None:
    """The preset's name, or the class that the command line named in its place."""
    if any(item.startswith("optimizer._target_=") for item in cfg.composed.overrides):
        return str(cfg.optimizer["_target_"]).rsplit(".", 1)[-1]
    return cfg.composed.choices.get("optimizer")


def _without_seed(cfg: DictConfig) -> dict[str, Any]:
    """What matters, with `any` for the seed wherever it has spread."""
    seed = cfg.seed
    cfg.seed = NO_SEED  # a number, as its type is one
    try:
        found = _what_matters(cfg)
    finally:
        cfg.seed = seed

    def put_right(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: put_right(one) for key, one in value.items()}
        if isinstance(value, list):
            return [put_right(one) for one in value]
        if isinstance(value, str):
            return value.replace(str(NO_SEED), "any")
        return "any" if value == NO_SEED else value

    return put_right(found)


def _what_matters(cfg: DictConfig) -> dict[str, Any]:
    found: Any = OmegaConf.to_container(cfg, resolve=True)
    for key in IGNORED:
        found.pop(key, None)
    for key in IGNORED_IN:
        _drop(found, key)
    machine = found["hardware"]
    if machine["deterministic"] or "auto" not in [machine[key] for key in ("precision", "memory_format", "compile")]:
        # Where nothing is left to be timed, whether it may be cannot matter. Else it does: by a rule or by timing, a run may be
        # in 32 bits or in 16. What timing chose is no part of what was asked for: it stands in the row, like the device.
        _drop(found, "hardware.tune")
    if found["dataset"].get("sampling") not in (None, "temperature"):
        found["dataset"].pop("temperature", None)
    for node in (found["dataset"], found["source"].get("dataset") or {}):
        parts = node.get("parts") or {}
        for one in (node, *(parts.values() if isinstance(parts, dict) else ())):
            one.pop("download", None)  # how the data came here
    found["tasks"] = chosen_tasks(cfg)
    found["terms"] = OmegaConf.to_container(OmegaConf.create(terms_of(cfg)))
    found["strategy"] = {
        key: found["strategy"][key] for key in ("init", "rules")
    }  # the rest was interpolated elsewhere
    del found["term"]
    if not needs_source(cfg):
        found["source"] = None
    elif "dataset" in found["source"]:
        found["source"].pop("path", None)  # where the pre-trained source is kept
    if len(found["tasks"]) == 1 and _separates(cfg):
        found["sharing"] = {"_target_": HARD}  # one task has nothing to share
    ignored = unused(cfg)
    for key in ignored:
        _drop(found, key)
    if ignored:
        found["strategy"]["solver"] = OmegaConf.to_container(cfg.strategy.solver)
    if len(found["tasks"]) == 1 or _separates(cfg) or "weighting" in ignored:
        found["weighting"] = None
        for task in found["dataset"].get("tasks", {}).values():
            task.pop("weight", None)
        found["dataset"].pop("own_statistics", None)
    elif find_target(cfg.weighting, "weighting", "weighting", cfg.allow).scalar:
        found["weighting"].pop("level", None)
    return found


def _of_any_tasks(found: dict[str, Any]) -> dict[str, Any]:
    """Without which tasks there are and how they are shared and weighed."""
    for key in ("tasks", "sharing", "weighting", "fusion"):
        found.pop(key, None)
    for key in ("default_tasks", "own_statistics"):
        found["dataset"].pop(key, None)
    for task in found["dataset"].get("tasks", {}).values():
        for key in ("weight", "primary"):
            task.pop(key, None)
    return found


def _of_the_tasks(found: dict[str, Any]) -> dict[str, Any]:
    """Without the settings of tasks that are not chosen: their weights, losses and metrics."""
    for name, task in found["dataset"].get("tasks", {}).items():
        if name not in found["tasks"]:
            for key in [key for key in task if key not in READ]:
                del task[key]
    return found


def _drop(node: Any, key: str) -> None:
    """Take `key`, a dotted one, out of `node` where it is there."""
    *path, last = key.split(".")
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    if isinstance(node, dict):
        node.pop(last, None)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
