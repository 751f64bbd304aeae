"""Where Hydra ends and a checked config begins: search path, plugins, loader, `compose()` for notebooks, `finish()` for all."""

import json
import logging
import pickle
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tlmtl import fill, identity
from tlmtl.columns import SHOWN
from tlmtl.config import merge_schema
from tlmtl.errors import ConfigError
from tlmtl.explain import explain, missing_key
from tlmtl.presets import GROUP_NAMES, packaged_folder, user_folder
from tlmtl.resuming import agreed
from tlmtl.schema import Composed

UNSHOWN = ("fusion", "schedule")  # groups whose choice no column shows
USERS = ("tlmtl-user", "command-line")  # where configs of the user's own come from: ./conf and --config-dir

log = logging.getLogger("tlmtl")
_warned: set[Path] = set()
_PACKAGED: dict[tuple[Any, ...], tuple[bytes, dict[str, Any]]] = {}  # what a `Loader` keeps of packaged files


class UserConfigs(SearchPathPlugin):
    """Looks for configs in ./conf too, after the packaged ones: a folder of that name can add names, never change one."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if folder := user_folder():
            search_path.append("tlmtl-user", f"file://{folder}")


UserConfigs.__module__ = "hydra_plugins.tlmtl_configs"  # Hydra 1.3 takes plugins from that namespace only


class Loader(ConfigLoaderImpl):
    """Hydra's loader of configs. What the chosen members of groups give takes it a quarter of a second, and is kept: configs
    that differ in single values alone are made from it, and it is what `overrides` are told from.

    Arguments:
        kept: by config name and choices: the config that they alone give, pickled, and its leaves.
    """

    def __init__(self, path: ConfigSearchPath, kept: dict[tuple[Any, ...], tuple[bytes, dict[str, Any]]]) -> None:
        super().__init__(path)
        self.kept = kept
        self.chosen: dict[str, Any] | None = (
            None  # of the last config: dotted key -> value, as its choices alone give it
        )

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        parsed = OverridesParser.create().parse_overrides(overrides)
        if validate_sweep_overrides:
            self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
        choices = [str(one.input_line) for one in parsed if self._chooses(one)]
        key = (config_name, run_mode, *choices)
        if key not in self.kept:
            cfg = super().load_configuration(config_name, choices, run_mode, from_shell, validate_sweep_overrides=False)
            self.kept[key] = pickle.dumps(cfg), leaves(cfg)
        text, self.chosen = self.kept[key]
        cfg = pickle.loads(text)
        values = [one for one in parsed if not one.is_sweep_override() and not self._chooses(one)]
        try:
            self._apply_overrides_to_config(values, cfg)
        except OmegaConfBaseException as error:  # as Hydra does
            raise ConfigCompositionException().with_traceback(error.__traceback__) from error
        for name, own in (("hydra", True), ("task", False)):
            stray = [
                line for line in cfg.hydra.overrides[name] if line not in choices
            ]  # a file's, which `guard` refuses
            cfg.hydra.overrides[name] = [*stray, *(one.input_line for one in parsed if one.is_hydra_override() is own)]
        return cfg

    def _chooses(self, override: Override) -> bool:
        """Whether an override says which files a config is made of."""
        if override.is_sweep_override() or isinstance(override.value(), dict):
            return False
        return override.key_or_group == "hydra.searchpath" or self.repository.group_exists(override.key_or_group)


@contextmanager
def loading(config_dir: str | None = None) -> Iterator[Loader]:
    """The loader of configs, for as long as the block lasts; Hydra's own state is put back then.

    Arguments:
        config_dir: a folder of configs that come before the packaged ones (`--config-dir`).
    """
    before = GlobalHydra.instance().hydra
    path = create_config_search_path(f"file://{packaged_folder()}")
    if config_dir:
        folder = f"file://{Path(config_dir).resolve()}"
        path.prepend("command-line", folder, SearchPathQuery(provider="schema"))  # where Hydra puts it
    GlobalHydra.instance().clear()
    try:
        # Files of the user's may be others when the next command is run in this process.
        loader = Loader(path, {} if config_dir or user_folder() else _PACKAGED)
        GlobalHydra.instance().initialize(Hydra("tlmtl", loader))
        yield loader
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().initialize(before)


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


def known_keys() -> list[str]:
    """The keys of the last config, or, where none came about, of the default one."""
    loader = _loader()
    if loader.chosen is None:
        _leaves_of({})
    return list(loader.chosen or [])


def _loader() -> Loader:
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, Loader)
    return loader


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
    chosen = _loader().chosen if cfg.hydra.job.config_name == "config" else None
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
        chosen = _leaves_of({**choices, "term": f"[{','.join(terms or ['none'])}]"})
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
    cfg = _loader().load_configuration("config", [f"dataset={name}"], RunMode.RUN)
    for key, value in settings.items():
        if key not in list(cfg.dataset):  # `in` alone does not see a value that is still missing
            raise missing_key(f"dataset.{key}", cfg.dataset, known_keys())
        OmegaConf.update(cfg, f"dataset.{key}", value, merge=True)
    return merge_schema(cfg).dataset


def _members(group: str) -> list[str]:
    return _loader().get_group_options(group)


@lru_cache(maxsize=1)
def _default_choices() -> dict[str, Any]:
    """By group, the member that the main config chooses."""
    main: Any = OmegaConf.load(packaged_folder() / "config.yaml")
    return {group: member for one in main.defaults if OmegaConf.is_dict(one) for group, member in one.items()}


def leaves(cfg: DictConfig) -> dict[str, Any]:
    """Dotted key -> value, interpolations unresolved and Hydra's own keys left out; lists count as values."""
    found: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            else:
                found[prefix + str(key)] = value

    whole: Any = OmegaConf.to_container(cfg, resolve=False)
    walk({key: value for key, value in whole.items() if key != "hydra"}, "")
    return found


def _leaves_of(choices: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of the config that choices of groups alone give."""
    overrides = [f"{group}={choice}" for group, choice in sorted(choices.items()) if choice is not None]
    _loader().load_configuration("config", overrides, RunMode.RUN)
    found = _loader().chosen
    assert found is not None
    return found


def first_job(overrides: list[str]) -> list[str]:
    """A sweep's overrides with the first value of each, which is what can be shown of it."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [
        f"{item.get_key_element()}={next(item.sweep_string_iterator())}" if item.is_sweep_override() else text
        for text, item in zip(overrides, parsed, strict=True)
    ]
