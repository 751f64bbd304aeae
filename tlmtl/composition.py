"""Where Hydra ends and a checked config begins: plugins, `compose()` for notebooks, `finish()` for all."""

import json
import logging
import sys
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from hydra import version
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tlmtl import fill, identity
from tlmtl.columns import SHOWN
from tlmtl.config import merge_schema
from tlmtl.errors import ConfigError
from tlmtl.explain import explain, missing_key
from tlmtl.loader import UserConfigs, current, known_keys, leaves, leaves_of_choices, loading
from tlmtl.presets import GROUP_NAMES, packaged_folder
from tlmtl.resuming import agreed
from tlmtl.schema import Composed

UNSHOWN = ("fusion", "schedule")  # groups whose choice no column shows
USERS = ("tlmtl-user", "command-line")  # where configs of the user's own come from: ./conf and --config-dir

log = logging.getLogger("tlmtl")
_warned: set[Path] = set()


def register() -> None:
    """Make Hydra know this program's search path and launcher. Call before Hydra is initialised."""
    from tlmtl.search import sweeper
    from tlmtl.sweep import launcher

    version.setbase("1.3")
    Plugins.instance().register(UserConfigs)
    launcher.register(finish)
    sweeper.register()


def compose(overrides: list[str] | None = None) -> DictConfig:
    """The checked config of one run, for notebooks: `tlmtl.run(tlmtl.compose(["strategy=finetune_all"]))`.

    Raises ConfigError for what `tlmtl train` would refuse.
    """
    register()
    said = overrides or []
    with loading() as loader:
        try:
            said = agreed(said, compose)
            check_choices(said)
            return finish(loader.load_configuration("config", list(said), RunMode.RUN, from_shell=False), said)
        except Exception as error:
            raise explain(error, said, known_keys) from error


def check_choices(overrides: Sequence[str]) -> None:
    """Raises ConfigError where a group is given what is no name of a member. Hydra's own message does not say which group."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key = override.get_key_element().lstrip("+~")
        group, value = key.split("@")[0], override.value()
        if group not in GROUP_NAMES or override.is_delete() or override.is_sweep_override():
            continue
        names = value if isinstance(value, list) else [value]
        if not all(isinstance(name, str | QuotedString) for name in names):
            raise ConfigError(
                f"'{key}' should be the name of one of `tlmtl list {group}`. Found "
                f"{override.get_value_element_as_str()}; its settings are set one by one, as {key}.KEY=VALUE."
            )


def finish(cfg: DictConfig, said: Sequence[str]) -> DictConfig:
    """What Hydra has just composed (with its `hydra` node), checked against the schema, with `composed` filled in.

    Arguments:
        said: the overrides as the user gave them; what `cfg` says of them could come from a config file.
    """
    chosen = current().chosen if cfg.hydra.job.config_name == "config" else None
    choices = {
        str(group): choice
        for group, choice in cfg.hydra.runtime.choices.items()
        if group in GROUP_NAMES and group not in ("experiment", "term")
    }
    _warn_of_hidden(choices, [s.path for s in cfg.hydra.runtime.config_sources if s.provider in USERS])
    checked = merge_schema(cfg)
    # Hydra does not report choices of lists
    terms = [name for name in checked.term if name in _members("term")] if checked.term else []
    if chosen is None or not _plain_choices(said):
        chosen = leaves_of_choices({**choices, "term": f"[{','.join(terms or ['none'])}]"})
    base = chosen
    if base.get("allow", []) != [] or (
        checked.allow and not any(item.lstrip("+").startswith("allow=") for item in said)
    ):
        raise ConfigError(
            "'allow' may only be set on the command line: a config file is data, which may be a stranger's."
        )
    if checked.allow and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # where a user's own package lies; children of a sweep inherit it
    mine = leaves(checked)
    changed = {key: value for key, value in mine.items() if base.get(key, "absent") != value}
    dropped = [key for key in base if key not in mine]
    checked.composed = Composed(
        choices,
        sorted(f"{group}={choices[group]}" for group in UNSHOWN if choices.get(group) != _default_choices().get(group))
        + sorted(f"{key}={_text(value)}" for key, value in changed.items() if _is_setting(key))
        + sorted(f"~{key}" for key in dropped if _is_setting(key)),
    )
    fill.parts(checked, partial(_members, "dataset"), _preset)
    fill.tasks(checked)
    fill.further_sets(checked, partial(_members, "dataset"), _preset)
    OmegaConf.set_struct(checked, True)
    return checked


def _plain_choices(words: Sequence[str]) -> bool:
    """Whether overrides choose members of this program's groups and nothing else, so that what those alone give is known."""
    for word in words:
        key = word.split("=")[0]
        name = key.lstrip("+~").split("@")[0]
        if name.split("/")[0] != "hydra" and (name == "experiment" or "@" in key):
            return False
        if key != name and name in GROUP_NAMES:
            return False
    return True


def _warn_of_hidden(choices: dict[str, Any], folders: list[str]) -> None:
    """Say so when a file of the user's has a packaged name: the packaged one is used."""
    for group, choice in choices.items():
        for folder in folders:
            path = Path(folder) / group / f"{choice}.yaml"
            if path.is_file() and (packaged_folder() / group / path.name).is_file() and path not in _warned:
                _warned.add(path)
                log.warning(
                    "%s is not used: %s=%s is a packaged config. Give the file another name.", path, group, choice
                )


def _is_setting(key: str) -> bool:
    """Whether a change of `key` belongs into the column `overrides`: it can change the result and no column shows it."""
    if key.endswith("dataset.download") or key in identity.IGNORED_IN:
        return False
    return key == "hardware.deterministic" or (key not in SHOWN and key.split(".")[0] not in (
        "output", "sweep", "tune", "resume", "progress", "hardware", "allow", "composed", "logger",
    ))  # fmt: skip


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _preset(name: str, **settings: Any) -> DictConfig:
    """The config of a packaged data set (or one of the user's), by name, with `settings` of its keys."""
    cfg = current().load_configuration("config", [f"dataset={name}"], RunMode.RUN)
    for key, value in settings.items():
        if key not in list(cfg.dataset):  # `in` alone does not see a value that is still missing
            raise missing_key(f"dataset.{key}", cfg.dataset, known_keys())
        OmegaConf.update(cfg, f"dataset.{key}", value, merge=True)
    return merge_schema(cfg).dataset


def _members(group: str) -> list[str]:
    return current().get_group_options(group)


@lru_cache(maxsize=1)
def _default_choices() -> dict[str, Any]:
    """By group, the member that the main config chooses."""
    main: Any = OmegaConf.load(packaged_folder() / "config.yaml")
    return {group: member for one in main.defaults if OmegaConf.is_dict(one) for group, member in one.items()}


def first_job(overrides: list[str]) -> list[str]:
    """A sweep's overrides with the first value of each, which is what can be shown of it."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [
        f"{item.get_key_element()}={next(item.sweep_string_iterator())}" if item.is_sweep_override() else text
        for text, item in zip(overrides, parsed, strict=True)
    ]
