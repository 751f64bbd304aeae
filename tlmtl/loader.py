"""Hydra's loader of configs, with the places to look in, and what it remembers of what it has composed."""

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tlmtl.presets import packaged_folder, user_folder

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


def known_keys() -> list[str]:
    """The keys of the last config, or, where none came about, of the default one."""
    loader = current()
    if loader.chosen is None:
        leaves_of_choices({})
    return list(loader.chosen or [])


def current() -> Loader:
    loader = GlobalHydra.instance().config_loader()
    assert isinstance(loader, Loader)
    return loader


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


def leaves_of_choices(choices: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of the config that choices of groups alone give."""
    overrides = [f"{group}={choice}" for group, choice in sorted(choices.items()) if choice is not None]
    current().load_configuration("config", overrides, RunMode.RUN)
    found = current().chosen
    assert found is not None
    return found
