"""`resume=FOLDER`: the config is the folder's own, and what else the command says has to agree with it."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tlmtl import identity
from tlmtl.config import known_keys, omegaconf_error
from tlmtl.errors import ConfigError, nearest
from tlmtl.results import RunFolder
from tlmtl.schema import Config

Compose = Callable[[list[str]], DictConfig]
ABSENT = object()

log = logging.getLogger("tlmtl")


def folder_of(named: str) -> Path:
    """The folder that `resume` names, made absolute. Raises ConfigError when nothing can be gone on with there."""
    path = Path(named).expanduser().resolve()
    record = RunFolder(path).record
    status = record.get("status")
    if status is None or not (path / "config.yaml").is_file():
        more = ""
        if any(path.glob("*/run.json")):
            more = " It holds runs: name one of them, or, for a sweep, give the sweep's command again."
        raise ConfigError(f"'resume' should be the folder of an interrupted run. Found no run in {named}.{more}")
    if status == "done":
        raise ConfigError(
            f"The run in {named} is finished: there is nothing to resume. Its rows are in {path / 'results.csv'}."
        )
    return path


def own_config(path: Path) -> DictConfig:
    """The config that the run in `path` was begun with, as this program's schema has it."""
    file = path / "config.yaml"
    try:
        own = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(file))
        assert isinstance(own, DictConfig)
    except OmegaConfBaseException as error:
        found = omegaconf_error(error, known_keys(OmegaConf.structured(Config)))
        raise ConfigError(f"{file} is no config of this version of tlmtl: {found}") from error
    except (OSError, YAMLError, UnicodeDecodeError, AssertionError) as error:
        raise ConfigError(f"{file} should hold the run's config. It cannot be read: {error}.") from error
    return own


def resumed(cfg: DictConfig) -> tuple[DictConfig, Path]:
    """The config and folder of the run that `cfg.resume` names; where and how it is shown is `cfg`'s to say.

    Raises ConfigError when there is nothing to resume, or another process is at it.
    """
    path = folder_of(cfg.resume)
    with RunFolder(path) as folder:  # refused here, before data are read
        record, left = folder.record, bool(folder.checkpoints())
    own = own_config(path)
    if list(own.allow) != list(cfg.allow):  # a config file is data: what it may import is said by the command alone
        raise ConfigError(
            f"That run was allowed to use {list(own.allow)}: give allow=[{','.join(own.allow)}] again to resume it."
        )
    if record["status"] in ("failed", "pruned"):
        again = "goes on from its last checkpoint" if left else "starts from the beginning"
        log.info("This run %s (%s). It %s.", record["status"], record.get("error") or "nobody knows why", again)
    keep = own.output.keep_checkpoint or cfg.output.keep_checkpoint
    own.output, own.progress, own.resume = cfg.output, cfg.progress, cfg.resume
    own.output.keep_checkpoint = keep
    return own, path


def agreed(words: Sequence[str], compose: Compose) -> list[str]:
    """The overrides `words` without those that only repeat what the folder of `resume=FOLDER` says; all of them when there
    is no such override.

    Arguments:
        compose: makes a config of overrides.

    Raises ConfigError with every key of which the command says something else than the folder.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = list(zip(words, OverridesParser.create().parse_overrides(list(words)), strict=True))
    folders = [one.value() for _, one in parsed if one.key_or_group == "resume"]
    if not folders or not isinstance(folders[-1], str):
        return list(words)
    free = [word for word, one in parsed if one.key_or_group.split(".")[0].split("/")[0] in identity.IGNORED]
    said = [(word, one) for word, one in parsed if word not in free]
    if not said:
        return free
    own = own_config(folder_of(folders[-1]))
    wrong = []
    for word, one in said:
        if one.is_sweep_override():
            raise ConfigError(f"resume=FOLDER goes on with one run. Found a sweep: {word}.")
        if one.key_or_group != "experiment":
            wrong += _difference(own, one)
    if any(one.key_or_group == "experiment" for _, one in said):
        rest = [word for word, one in said if one.key_or_group != "experiment"]
        wrong += _experiment(own, compose([word for word, _ in said]), compose(rest))
    if wrong:
        lines = "\n  ".join(wrong)
        raise ConfigError(
            f"resume={folders[-1]} goes on with that run's own config, and the command says otherwise:\n  {lines}\n"
            "Leave these out to go on with the run, or leave out resume= to start another one."
        )
    return free


def _difference(own: DictConfig, one: Any) -> list[str]:
    """A line when the override `one` is not what the folder's config `own` says."""
    key, choices = one.key_or_group, own.composed.choices
    if one.package:  # `dataset@source.dataset=elpv`: nothing written down says which preset it was
        return [f"{one.input_line}: a preset for a part of the config cannot be compared. Leave it out"]
    if key in choices and not one.is_delete():
        there, value = choices[key], one.value()
        return [] if there == value else [_line(key, there, value)]
    mine: Any = OmegaConf.select(own, key, default=ABSENT)
    if one.is_delete():
        return [] if mine is ABSENT else [_line(key, mine, "no such key")]
    if mine is ABSENT:
        return [f"{key}: the folder has no such key.{nearest(key, known_keys(own))} The command says {one.value()}"]
    value = one.value()
    if OmegaConf.is_dict(mine) and isinstance(value, list | str):  # names, which have become configs: term, parts, also
        names = [str(name) for name in ([value] if isinstance(value, str) else value) if name != "none"]
        same = sorted(names) == sorted(map(str, mine)) or sorted(map(_stem, names)) == sorted(map(str, mine))
        return [] if same else [_line(key, list(mine), value)]
    probe = own.copy()
    OmegaConf.set_struct(probe, False)
    try:
        OmegaConf.update(probe, key, value, merge=True)
        mine, value = _plain(own, key), _plain(probe, key)
    except OmegaConfBaseException as error:
        raise omegaconf_error(error, known_keys(own), key) from error
    return [] if mine == value else [_line(key, mine, value)]


def _experiment(own: DictConfig, every: DictConfig, rest: DictConfig) -> list[str]:
    """A line for each value that an experiment sets otherwise than `own` has it.

    Arguments:
        every: the command's config.
        rest: the same without the experiment.
    """
    flat = [_flat(OmegaConf.to_container(cfg, resolve=True)) for cfg in (own, every, rest)]
    mine, theirs, without = flat
    keys = [key for key, value in theirs.items() if without.get(key, ABSENT) != value]
    wrong = [key for key in keys if key.split(".")[0] not in identity.IGNORED and mine.get(key, ABSENT) != theirs[key]]
    return [_line(key, mine.get(key, "no such key"), theirs[key]) for key in wrong]


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in node.items():
        found.update(
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
        )
    return found


def _plain(cfg: DictConfig, key: str) -> Any:
    found = OmegaConf.select(cfg, key)
    return OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found


def _stem(name: str) -> str:
    return Path(name).stem.replace(".", "_")


def _line(key: str, mine: Any, theirs: Any) -> str:
    return f"{key}: the folder has {_shown(mine)}, the command says {_shown(theirs)}"


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
