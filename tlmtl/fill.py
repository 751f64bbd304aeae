"""What a composed config still leaves open and the data say: a table's tasks, the configs of further test sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from tlmtl.errors import ConfigError, nearest


def tasks(cfg: DictConfig) -> None:
    """Fill in the tasks of data sets whose tasks are found in the data (a table's columns)."""
    from tlmtl.data.dataset import with_tasks

    for where in ("dataset", "source.dataset"):
        if (node := OmegaConf.select(cfg, where)) is not None:
            OmegaConf.update(cfg, where, with_tasks(node, where, list(cfg.allow)), merge=False)


def further_sets(cfg: DictConfig, known: list[str], preset: Callable[[str], DictConfig]) -> None:
    """Put the configs of the data sets that `evaluate.also` lists in its place, by name.

    Arguments:
        known: names of data sets.
        preset: the config of one of them.

    Raises ConfigError for what is neither a data set nor a path.
    """
    wanted = cfg.evaluate.also
    if OmegaConf.is_dict(wanted):  # filled in already
        return
    found: dict[str, Any] = {}
    for word in [wanted] if isinstance(wanted, str) else list(wanted or []):
        word = str(word)
        name = word if word in known else Path(word).stem.replace(".", "_")
        while name in found:
            name += "_"
        found[name] = preset(word) if word in known else _like(cfg.dataset, word, known)
    cfg.evaluate.also = found


def _like(node: DictConfig, path: str, known: list[str]) -> DictConfig:
    """The config of data like those of `node` that lie at `path`, all of them for testing."""
    place = next((key for key in ("path", "root") if node.get(key) is not None), None)
    if place is None or not Path(path).expanduser().exists():
        what = "names of data sets" + (" or paths to data of this kind" if place else "")
        raise ConfigError(f"'evaluate.also' should list {what}. Found '{path}', which is none.{nearest(path, known)}")
    other: DictConfig = node.copy()
    OmegaConf.set_struct(other, False)
    other.update({place: path, "fold": None, "labels_per_class": None, "label_fraction": None, "test_fraction": 1.0})
    if place == "path" and "root" in other:
        other.root = None
    return other
