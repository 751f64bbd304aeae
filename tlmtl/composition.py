"""Where Hydra ends and a checked config begins: search path, plugins, `compose()` for notebooks, `finish()` for all."""

import json
import logging
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import QuotedString
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tlmtl import fill, identity
from tlmtl.columns import SHOWN
from tlmtl.config import merge_schema
from tlmtl.errors import ConfigError
from tlmtl.explain import CONFIG_MODULE, explain, leaves, leaves_of_choices, missing_key
from tlmtl.presets import GROUP_NAMES, packaged_folder, user_folder
from tlmtl.resuming import agreed
from tlmtl.schema import Composed

UNSHOWN = ("fusion", "schedule")  # groups whose choice no column shows
USERS = ("tlmtl-user", "command-line")  # where configs of the user's own come from: ./conf and --config-dir

log = logging.getLogger("tlmtl")
_warned: set[Path] = set()


class UserConfigs(SearchPathPlugin):
    """Looks for configs in ./conf too, after the packaged ones: a folder of that name can add names, never change one."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if folder := user_folder():
            search_path.append("tlmtl-user", f"file://{folder}")


UserConfigs.__module__ = "hydra_plugins.tlmtl_configs"  # Hydra 1.3 takes plugins from that namespace only


def register() -> None:
    """Make Hydra know this program's search path and launcher. Call before Hydra is initialised."""
    from tlmtl.search import sweeper
    from tlmtl.sweep import launcher

    leaves_of_choices.cache_clear()  # another working folder may hold other configs
    Plugins.instance().register(UserConfigs)
    launcher.register(finish)
    sweeper.register()


def compose(overrides: list[str] | None = None) -> DictConfig:
    """The checked config of one run, for notebooks: `tlmtl.run(tlmtl.compose(["strategy=finetune_all"]))`.

    Raises ConfigError for what `tlmtl train` would refuse.
    """
    import hydra

    try:
        overrides = agreed(overrides or [], compose)
    except Exception as error:
        raise explain(error, overrides or []) from error
    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            check_choices(overrides or [])
            cfg = hydra.compose("config", overrides=overrides or [], return_hydra_config=True)
            return finish(cfg, overrides or [])
        except Exception as error:
            raise explain(error, overrides or []) from error


def check_choices(overrides: Sequence[str]) -> None:
    """Raises ConfigError where a group is given what is no name of a member. Hydra's own message does not say which group."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

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
    """What Hydra composed (with its `hydra` node), checked against the schema, with `composed` filled in.

    Arguments:
        said: the overrides as the user gave them; what `cfg` says of them could come from a config file.
    """
    choices = {
        str(group): choice
        for group, choice in cfg.hydra.runtime.choices.items()
        if group in GROUP_NAMES and group not in ("experiment", "term")
    }
    _warn_of_hidden(choices, [s.path for s in cfg.hydra.runtime.config_sources if s.provider in USERS])
    checked = merge_schema(cfg)
    terms = [name for name in checked.term if name in _members("term")]  # Hydra does not report choices of lists
    base = json.loads(
        leaves_of_choices(json.dumps({**choices, "term": f"[{','.join(terms or ['none'])}]"}, sort_keys=True))
    )
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
    fill.parts(checked, _members("dataset"), _preset)
    fill.tasks(checked)
    fill.further_sets(checked, _members("dataset"), _preset)
    OmegaConf.set_struct(checked, True)
    return checked


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
    loader = GlobalHydra.instance().config_loader()
    cfg = loader.load_configuration("config", [f"dataset={name}"], RunMode.RUN)
    for key, value in settings.items():
        if key not in list(cfg.dataset):  # `in` alone does not see a value that is still missing
            raise missing_key(f"dataset.{key}", cfg.dataset)
        OmegaConf.update(cfg, f"dataset.{key}", value, merge=True)
    return merge_schema(cfg).dataset


def _members(group: str) -> list[str]:
    return GlobalHydra.instance().config_loader().get_group_options(group)


@lru_cache(maxsize=1)
def _default_choices() -> dict[str, Any]:
    loader = GlobalHydra.instance().config_loader()
    return dict(loader.load_configuration("config", [], RunMode.RUN).hydra.runtime.choices)


def first_job(overrides: list[str]) -> list[str]:
    """A sweep's overrides with the first value of each, which is what can be shown of it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(overrides)
    return [
        f"{item.get_key_element()}={next(item.sweep_string_iterator())}" if item.is_sweep_override() else text
        for text, item in zip(overrides, parsed, strict=True)
    ]


def with_hydra_node(cfg: DictConfig, hydra_node: Any) -> DictConfig:
    """The config of a job with its `hydra` node beside it, which Hydra keeps apart while a job runs."""
    both = cfg.copy()
    OmegaConf.set_struct(both, False)
    both["hydra"] = hydra_node
    return both
