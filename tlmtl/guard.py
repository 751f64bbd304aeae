"""What a config may not make Hydra do: a config may be a stranger's, and only what this program builds is checked by name."""

from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from tlmtl.errors import ConfigError
from tlmtl.sweep.launcher import check_launcher

PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")


def guard(node: Any, overrides: Sequence[str]) -> None:
    """Refuse configs of Hydra's own that would make it import or run something, before Hydra acts on them.

    Arguments:
        node: the `hydra` node of what was composed.
        overrides: the command line's.

    Raises ConfigError for callbacks, loggers, environment variables, a launcher or sweeper that is no Hydra plugin, and a
    sweep that a config file lets reach beyond experiments.
    """
    for name in ("launcher", "sweeper"):
        target = node[name].get("_target_")
        if not str(target).startswith(PLUGINS):
            raise ConfigError(
                f"'hydra.{name}._target_' may not be '{target}': only installed Hydra plugins may be named."
            )
    check_launcher(node, list(overrides))
    if node.callbacks:
        raise ConfigError(
            f"'hydra.callbacks' may not be set: found {sorted(node.callbacks)}. They would run unchecked code."
        )
    for name in ("job_logging", "hydra_logging"):
        if node[name] is None or node[name].get("root") is not None:
            raise ConfigError(
                f"'hydra.{name}' may not be set: this program writes its own log (log.txt in a run's folder)."
            )
    if node.job.env_set:
        raise ConfigError(
            f"'hydra.job.env_set' may not be set: found {sorted(node.job.env_set)}. Set them in the shell."
        )
    said: Any = OmegaConf.to_container(node.overrides, resolve=False)  # which may hold interpolations
    if stray := [item for item in [*said["task"], *said["hydra"]] if item not in overrides]:
        raise ConfigError(
            f"'hydra.overrides' may not be set: found {stray}. It says what was typed on the command line."
        )
    for key in node.sweeper.get("params") or {}:
        if str(key).lstrip("+~").split(".")[0].split("/")[0] in ("allow", "hydra"):
            raise ConfigError(
                f"'{key}' may not be swept by 'hydra.sweeper.params': it may only be set on the command line."
            )


def guard_search_path(loader: Any, config_name: str) -> None:
    """Raises ConfigError for a main config that sends Hydra to look for configs in a package: Hydra would import it. What
    the command line says is the user's own."""
    found = loader.repository.load_config(config_name)
    listed: Any = OmegaConf.select(found.config, "hydra.searchpath") if found is not None else None
    for place in listed if OmegaConf.is_list(listed) else [listed]:
        if str(place or "").startswith("pkg://") and str(place).removeprefix("pkg://").split(".")[0] != "tlmtl":
            raise ConfigError(
                f"'hydra.searchpath' of a config file may not name a package, which would be imported. Found '{place}'. "
                "Folders (file://...) may be named; a package is named on the command line."
            )
