"""Where Hydra ends and a checked config begins: search path, plugins, `compose()` for notebooks, `finish()` for all."""

import json
import logging
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tlmtl import fill
from tlmtl.columns import SHOWN
from tlmtl.config import merge_schema
from tlmtl.errors import ConfigError, nearest
from tlmtl.presets import GROUP_NAMES, packaged_folder, presets, user_folder
from tlmtl.schema import RECONSTRUCTION, Composed, Task

CONFIG_MODULE = "tlmtl.conf"
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
    from tlmtl.sweep import launcher

    _leaves_of_choices.cache_clear()  # another working folder may hold other configs
    Plugins.instance().register(UserConfigs)
    launcher.register(finish)


def compose(overrides: list[str] | None = None) -> DictConfig:
    """The checked config of one run, for notebooks: `tlmtl.run(tlmtl.compose(["strategy=finetune_all"]))`.

    Raises ConfigError for what `tlmtl train` would refuse.
    """
    import hydra

    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            cfg = hydra.compose("config", overrides=overrides or [], return_hydra_config=True)
            return finish(cfg, overrides or [])
        except Exception as error:
            raise explain(error) from error


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
        _leaves_of_choices(json.dumps({**choices, "term": f"[{','.join(terms or ['none'])}]"}, sort_keys=True))
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


def leaves(cfg: DictConfig) -> dict[str, Any]:
    """Dotted key -> value, interpolations unresolved; lists count as values."""
    found: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                found[prefix + str(key)] = value

    walk(OmegaConf.to_container(cfg, resolve=False), "")
    return found


def _is_setting(key: str) -> bool:
    """Whether a change of `key` belongs into the column `overrides`: it can change the result and no column shows it."""
    if key.endswith("dataset.download"):
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
            raise _unknown_key(f"dataset.{key}", cfg.dataset)
        OmegaConf.update(cfg, f"dataset.{key}", value, merge=True)
    return merge_schema(cfg).dataset


def _members(group: str) -> list[str]:
    return GlobalHydra.instance().config_loader().get_group_options(group)


@lru_cache(maxsize=1)
def _default_choices() -> dict[str, Any]:
    loader = GlobalHydra.instance().config_loader()
    return dict(loader.load_configuration("config", [], RunMode.RUN).hydra.runtime.choices)


@lru_cache(maxsize=64)
def _leaves_of_choices(choices: str) -> str:
    """The leaves of the config that the choices of groups alone give, as JSON. It is what `overrides` are told from."""
    loader = GlobalHydra.instance().config_loader()
    overrides = [f"{group}={choice}" for group, choice in json.loads(choices).items() if choice is not None]
    cfg = loader.load_configuration("config", overrides, run_mode=RunMode.RUN)
    return json.dumps(leaves(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])))


def explain(error: Exception) -> Exception:
    """An error of Hydra's as a ConfigError in this program's words; any other error as it is."""
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from tlmtl.config import omegaconf_error

    if isinstance(error, OmegaConfBaseException):
        return omegaconf_error(error, _all_keys())
    if isinstance(error, YAMLError | UnicodeDecodeError):
        return ConfigError(f"A config file cannot be read: {error}.")
    if isinstance(error, OverrideParseException):
        said = [line for line in str(error).splitlines() if not line.startswith("See ")]
        return ConfigError(
            f"{'. '.join(said)}. Expected key=value or group=member, with quotes round special characters."
        )
    if not isinstance(error, HydraException):
        return error
    text = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in ("ConfigAttributeError", "ConfigKeyError") and "not in struct" in str(cause):
            return _unknown_key(
                text.split("'")[1] if "'" in text else cast(Any, cause).full_key, cast(Any, cause).parent_node
            )
        if type(cause).__name__ == "MissingConfigException" and (missing := getattr(cause, "missing_cfg_file", None)):
            return _unknown_member(str(missing), list(getattr(cause, "options", None) or []), text)
        cause = cause.__cause__
    return ConfigError(text)


def _unknown_key(key: str, parent: Any) -> ConfigError:
    """`parent` is the node that has no such key: what it has is looked at first."""
    from tlmtl.config import unknown_key

    if key.split(".")[0] == "term" and key.count(".") > 1:
        term = key.split(".")[1]
        return ConfigError(
            f"There is no term '{term}' in force at '{key}'. Choose it first: term=[{term}] {key}=VALUE."
        )
    above = key.rpartition(".")[0]
    beside = [f"{above}.{name}".lstrip(".") for name in (parent or {})]
    settings = [*Task.__dataclass_fields__, RECONSTRUCTION]
    if "dataset.tasks." in key and key.rpartition(".")[2] in settings:
        return ConfigError(f"'{key}' is not in this data set's config, and is added with a plus: +{key}=VALUE.")
    error = unknown_key(key, [*beside, *GROUP_NAMES, *_all_keys()])
    if parent is not None and "_target_" in parent:
        return ConfigError(f"{error} A keyword that the preset leaves out is added with a plus: +{key}=VALUE.")
    return error


def _unknown_member(missing: str, options: list[str], text: str) -> ConfigError:
    group, _, name = missing.rpartition("/")
    if group in GROUP_NAMES and not options:  # Hydra names none for lists and experiments
        options = [preset.name for preset in presets(group, [packaged_folder(), *filter(None, [user_folder()])])]
    if not options:
        return ConfigError(text)
    return ConfigError(
        f"There is no {group or 'config'} '{name}'.{nearest(name, options)} Known: {', '.join(options)}. "
        f"`tlmtl list {group}` says what each one is."
    )


def _all_keys() -> list[str]:
    import hydra

    if GlobalHydra.instance().is_initialized():
        return list(json.loads(_leaves_of_choices("{}")))
    with hydra.initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        return list(json.loads(_leaves_of_choices("{}")))


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
