"""Where Hydra ends and a checked config begins: search path, plugins, `compose()` for notebooks, `finish()` for all."""

import json
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from tlmtl.columns import SHOWN
from tlmtl.config import Composed, merge_schema
from tlmtl.errors import ConfigError
from tlmtl.presets import GROUP_NAMES, user_folder

CONFIG_MODULE = "tlmtl.conf"


class UserConfigs(SearchPathPlugin):
    """Looks for configs in ./conf too, after the packaged ones: a folder of that name can add names, never change one."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if folder := user_folder():
            search_path.append("tlmtl-user", f"file://{folder}")


UserConfigs.__module__ = "hydra_plugins.tlmtl_configs"  # Hydra 1.3 takes plugins from that namespace only


def register() -> None:
    """Make Hydra know this program's search path and launcher. Call before Hydra is initialised."""
    from tlmtl.sweep import launcher

    Plugins.instance().register(UserConfigs)
    launcher.register()


def compose(overrides: list[str] | None = None) -> DictConfig:
    """The checked config of one run, for notebooks: `tlmtl.run(tlmtl.compose(["strategy=finetune_all"]))`.

    Raises ConfigError for what `tlmtl train` would refuse.
    """
    import hydra

    register()
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        try:
            return finish(hydra.compose("config", overrides=overrides or [], return_hydra_config=True))
        except Exception as error:
            raise explain(error) from error


def finish(cfg: DictConfig) -> DictConfig:
    """What Hydra composed (with its `hydra` node), checked against the schema, with `composed` filled in."""
    choices = {
        str(group): choice
        for group, choice in cfg.hydra.runtime.choices.items()
        if group in GROUP_NAMES and group not in ("experiment", "term")
    }
    checked = merge_schema(cfg)
    terms = [name for name in checked.term if name in _members("term")]  # Hydra does not report choices of lists
    base = json.loads(_leaves_of_choices(json.dumps({**choices, "term": f"[{','.join(terms or ['none'])}]"}, sort_keys=True)))
    if base.get("allow", []) != [] or (checked.allow and not _on_command_line(cfg, "allow")):
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
        sorted(f"{key}={_text(value)}" for key, value in changed.items() if _is_setting(key))
        + sorted(f"~{key}" for key in dropped if _is_setting(key)),
    )
    OmegaConf.set_struct(checked, True)
    return checked


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
    return key not in SHOWN and key.split(".")[0] not in (
        "output", "sweep", "resume", "progress", "hardware", "allow", "composed",
    )  # fmt: skip


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _on_command_line(cfg: DictConfig, key: str) -> bool:
    return any(str(item).lstrip("+").startswith(f"{key}=") for item in cfg.hydra.overrides.task)


def _members(group: str) -> list[str]:
    return GlobalHydra.instance().config_loader().get_group_options(group)


@lru_cache(maxsize=64)
def _leaves_of_choices(choices: str) -> str:
    """The leaves of the config that the choices of groups alone give, as JSON. It is what `overrides` are told from."""
    loader = GlobalHydra.instance().config_loader()
    overrides = [f"{group}={choice}" for group, choice in json.loads(choices).items() if choice is not None]
    cfg = loader.load_configuration("config", overrides, run_mode=RunMode.RUN)
    return json.dumps(leaves(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])))


def explain(error: Exception) -> Exception:
    """An error of Hydra's as a ConfigError in this program's words; any other error as it is."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from tlmtl.config import omegaconf_error, unknown_key

    if isinstance(error, OmegaConfBaseException):
        return omegaconf_error(error, _all_keys())
    if not isinstance(error, HydraException):
        return error
    text = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ == "ConfigAttributeError" and "struct" in str(cause):
            key = text.split("'")[1] if "'" in text else cast(Any, cause).full_key
            return unknown_key(str(key), _all_keys())
        if type(cause).__name__ == "MissingConfigException" and (missing := getattr(cause, "missing_cfg_file", None)):
            return _unknown_member(str(missing), list(getattr(cause, "options", None) or []), text)
        cause = cause.__cause__
    from tlmtl.errors import nearest

    if "Could not override '" in text and (key := text.split("'")[1]):
        return ConfigError(f"{text.splitlines()[0]}{nearest(key, list(GROUP_NAMES))} `tlmtl list` shows the groups.")
    return ConfigError(text)


def _unknown_member(missing: str, options: list[str], text: str) -> ConfigError:
    from tlmtl.errors import nearest

    group, _, name = missing.rpartition("/")
    if not options:
        return ConfigError(text)
    return ConfigError(
        f"There is no {group or 'config'} '{name}'.{nearest(name, options)} Known: {', '.join(options)}. "
        f"`tlmtl list {group}` says what each one is."
    )


def _all_keys() -> list[str]:
    from tlmtl.config import Config, known_keys

    if not GlobalHydra.instance().is_initialized():
        return known_keys(OmegaConf.structured(Config))
    return list(json.loads(_leaves_of_choices("{}")))


def with_hydra_node(cfg: DictConfig, hydra_node: Any) -> DictConfig:
    """The config of a job with its `hydra` node beside it, which Hydra keeps apart while a job runs."""
    both = cfg.copy()
    OmegaConf.set_struct(both, False)
    both["hydra"] = hydra_node
    return both


def guard(args: Any) -> None:
    """Refuse configs of Hydra's own that would make it import something: a config may be a stranger's.

    Raises ConfigError for callbacks, and for a launcher or sweeper that is no Hydra plugin.
    """
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path

    GlobalHydra.instance().clear()
    try:
        path = create_config_search_path(f"pkg://{CONFIG_MODULE}")
        if args.config_dir:
            path.append("command-line", f"file://{Path(args.config_dir).resolve()}")
        loader = Hydra.create_main_hydra2("tlmtl", path).config_loader
        mode = RunMode.MULTIRUN if args.multirun else RunMode.RUN
        node = loader.load_configuration(args.config_name or "config", list(args.overrides), run_mode=mode).hydra
        targets = {name: node[name].get("_target_") for name in ("launcher", "sweeper")}
        for name, target in targets.items():
            if not str(target).startswith(("hydra_plugins.", "hydra._internal.core_plugins.")):
                raise ConfigError(
                    f"'hydra.{name}._target_' may not be '{target}': only installed Hydra plugins may be named."
                )
        if node.callbacks:
            raise ConfigError(
                f"'hydra.callbacks' may not be set: found {sorted(node.callbacks)}. They would run unchecked code."
            )
    finally:
        GlobalHydra.instance().clear()
