"""What a composed config still leaves open and the data say: a table's tasks, the configs of further test sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import GrammarParseError

from tlmtl.errors import ConfigError, nearest
from tlmtl.values import shown

JOINT = "tlmtl.data.joint.joint"


def tasks(cfg: DictConfig) -> None:
    """Fill in the tasks of data sets whose tasks are found in the data (a table's columns)."""
    from tlmtl.data.dataset import with_tasks

    parts = [
        f"{where}.parts.{name}"
        for where in ("dataset", "source.dataset")
        if _is_joint(node := OmegaConf.select(cfg, where))
        for name in node.parts
    ]
    for where in (*parts, "dataset", "source.dataset"):
        if (node := OmegaConf.select(cfg, where)) is not None:
            if _is_joint(node) and not node.get("default_tasks"):
                node.default_tasks = [
                    f"{part}_{name}" for part in node.parts for name in node.parts[part].default_tasks
                ]
            try:
                filled = with_tasks(node, where, list(cfg.allow))
            except GrammarParseError as error:
                raise ConfigError(
                    f"A column's name should not hold '${{', with which configs refer to values ('{where}'): "
                    f"{str(error).splitlines()[0]}. Rename the column, or choose others: {where}.labels=[COLUMN]."
                ) from error
            if filled is not node:
                _check_names(filled, where)
            OmegaConf.update(cfg, where, filled, merge=False)


def _is_joint(node: Any) -> bool:
    return node is not None and node.get("_target_") == JOINT


def parts(cfg: DictConfig, members: Callable[[], list[str]], preset: Callable[..., DictConfig]) -> None:
    """Put the configs of the data sets that `dataset.parts` of a joint one lists in its place, by name.

    Arguments:
        members: names of data sets.
        preset: the config of one of them.

    Raises ConfigError for what is no data set, and for a part named twice.
    """
    for where in ("dataset", "source.dataset"):
        node = OmegaConf.select(cfg, where)
        if not _is_joint(node):
            continue
        known = members()
        listed = node.get("parts")
        items = [(str(n), v) for n, v in listed.items()] if OmegaConf.is_dict(listed) else _listed(listed, where)
        found: dict[str, Any] = {}
        for name, settings in items:
            if name in found:
                raise ConfigError(
                    f"'{where}.parts' names '{name}' twice. Name one otherwise: {{NAME: {{from: {name}}}}}."
                )
            if not name.isidentifier():
                raise ConfigError(
                    f"A part's name at '{where}.parts' should be a word of letters and digits. Found '{name}'."
                )
            found[name] = _part(name, settings, f"{where}.parts", known, preset)
            for key in ("labels_per_class", "label_fraction"):
                if node.get(key) is not None:
                    found[name].update({"labels_per_class": None, "label_fraction": None, key: node[key]})
        if not found:
            raise ConfigError(f"'{where}.parts' should list data sets. Known: {', '.join(known)}.")
        filled = node.copy()
        OmegaConf.set_struct(filled, False)
        filled.parts = found
        OmegaConf.update(cfg, where, filled, merge=False)


def _listed(listed: Any, where: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for item in [listed] if isinstance(listed, str) else list(listed or []):
        if isinstance(item, str):
            found.append((item, {}))
        elif OmegaConf.is_dict(item) and len(item) == 1:
            found += [(str(name), settings) for name, settings in item.items()]
        else:
            raise ConfigError(
                f"'{where}.parts' should list names of data sets, or {{NAME: {{from: DATASET, KEY: VALUE}}}}. Found {item}."
            )
    return found


def _part(name: str, settings: Any, where: str, known: list[str], preset: Callable[..., DictConfig]) -> DictConfig:
    """The config of one part: a data set's preset with the settings that are stated otherwise."""
    given: dict[str, Any] = dict(settings or {})
    if "_target_" in given:  # whole already
        node = OmegaConf.create(given)
    else:
        base = str(given.pop("from", name))
        single = [one for one in known if one != "joint"]
        if base not in single:
            raise ConfigError(
                f"'{where}' names '{base}', which is no data set for a part.{nearest(base, single)} Known: {', '.join(single)}."
            )
        node = preset(base, **given)
    OmegaConf.set_struct(node, False)
    return node


def _check_names(filled: DictConfig, where: str) -> None:
    """Raises ConfigError for a name from the data that a config would not keep as it is: an interpolation, evaluated, could
    show what the environment holds; `???` counts as missing."""
    found: Any = OmegaConf.to_container(filled, resolve=False)
    for name, task in found["tasks"].items():
        column = str(task.get("target") or name)
        if any("${" in word or word == "???" for word in (str(name), column)):
            raise ConfigError(
                f"A column's name should not be '???' or hold '${{', which mean something else in a config ('{where}'). "
                f"Found the column '{column}'. Rename it, or choose others: {where}.labels=[COLUMN]."
            )


def further_sets(cfg: DictConfig, members: Callable[[], list[str]], preset: Callable[..., DictConfig]) -> None:
    """Put the configs of the data sets that `evaluate.also` lists in its place, by name.

    Arguments:
        members: names of data sets.
        preset: the config of one of them.

    Raises ConfigError for what is neither a data set nor a path.
    """
    wanted = cfg.evaluate.also
    if OmegaConf.is_dict(wanted):  # filled in already
        return
    found: dict[str, Any] = {}
    words = [] if wanted is None else list(wanted) if OmegaConf.is_list(wanted) else [wanted]
    known = members() if words else []
    for word in words:
        if not isinstance(word, str) or not word.strip():
            raise ConfigError(
                f"'evaluate.also' should list names of data sets, or paths to data. Found {shown(wanted)}."
            )
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
