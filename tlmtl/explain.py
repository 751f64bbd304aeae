"""Hydra's errors in this program's words."""

import re
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tlmtl.config import omegaconf_error, unknown_key
from tlmtl.errors import ConfigError, TlmtlError, nearest
from tlmtl.presets import GROUP_NAMES, packaged_folder, presets, user_folder
from tlmtl.schema import RECONSTRUCTION, Task
from tlmtl.sweep.launcher import INSTALL


def explain(error: Exception, said: Sequence[str], keys: Callable[[], list[str]]) -> Exception:
    """An error of Hydra's as a ConfigError in this program's words; any other error as it is.

    Arguments:
        said: the overrides, one of which is named where the error names no place.
        keys: the keys there are, for suggestions.
    """
    if isinstance(error, TlmtlError):
        return error
    if isinstance(error, OverrideParseException):
        lines = [line for line in str(error).splitlines() if line and not line.startswith("See ")]
        text = ". ".join(lines)
        if str(error.override) not in text:
            text = f"Error parsing override '{error.override}': {text}"
        return ConfigError(f"{text}. Expected key=value or group=member, with quotes round special characters.")
    if isinstance(error, OmegaConfBaseException):
        return _placed(omegaconf_error(error, keys()), said)
    if isinstance(error, YAMLError | UnicodeDecodeError):
        return ConfigError(f"A config file cannot be read: {error}.")
    if isinstance(error, RecursionError):
        return _unreadable(error, said) or ConfigError("The config is nested too deeply, or refers to itself.")
    if not isinstance(error, HydraException):
        return _unreadable(error, said) or error
    text = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in ("ConfigAttributeError", "ConfigKeyError") and "not in struct" in str(cause):
            key = text.split("'")[1] if "'" in text else cast(Any, cause).full_key
            return missing_key(key, cast(Any, cause).parent_node, keys())
        if type(cause).__name__ == "MissingConfigException" and (missing := getattr(cause, "missing_cfg_file", None)):
            return _unknown_member(str(missing), list(getattr(cause, "options", None) or []), text)
        if cause.__cause__ is None and text.startswith("Error merging override"):
            text = f"{text}: {(str(cause).splitlines() or [''])[0]}"
            if ".parts=" in text:
                text += ". A list is expected: dataset.parts=[{NAME: {from: DATASET, KEY: VALUE}}, ...]."
        cause = cause.__cause__
    if not text:  # Hydra wraps some errors of OmegaConf's without a word
        why = (str(error.__cause__ or error.__context__ or "").splitlines() or [""])[0]
        shown = [word for word in said if not word.startswith("hydra.")]
        return ConfigError(f"The config of {' '.join(shown)} cannot be composed: {why or type(error).__name__}.")
    return _placed(ConfigError(text), said)


def _unreadable(error: Exception, said: Sequence[str]) -> ConfigError | None:
    """What Hydra stumbled over while it read and merged files, such as one that holds a number; None for an error of this
    program's own."""
    frames = list(traceback.walk_tb(error.__traceback__))
    package = Path(__file__).parent
    ours = [path for frame, _ in frames if (path := Path(frame.f_code.co_filename)).is_relative_to(package)]
    last = str(ours[-1].relative_to(package)) if ours else ""
    if last not in ("commands.py", "guard.py", "composition.py", "loader.py", "explain.py"):
        return None
    files = [frame.f_locals.get("config_path") for frame, _ in frames if frame.f_code.co_name == "load_config"]
    where = f"The config '{files[-1]}'" if files and files[-1] else "The config"
    what = (str(error).splitlines() or [""])[0]
    return _placed(
        ConfigError(f"{where} cannot be read: it should hold lines of KEY: VALUE ({type(error).__name__}: {what})."),
        said,
    )


def _placed(error: ConfigError, said: Sequence[str]) -> ConfigError:
    """`error`, with the override whose value it speaks of where it names no key."""
    text = str(error)
    about = [word for word in said if (value := word.partition("=")[2].strip("'\"")) and value in text]
    if index := re.match(r".*Index '(\w+)'", text):  # a key below a list
        about = [word for word in said if index[1] in word.partition("=")[0].split(".")]
    named = any(word.split("=")[0].lstrip("+~") in text for word in about or said)
    return ConfigError(f"{text} (in {', '.join(about)})") if about and not named else error


def missing_key(key: str, parent: Any, keys: Sequence[str]) -> ConfigError:
    """`parent` is the node that has no such key: what it has is looked at first, then `keys`, those that there are."""
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
    error = unknown_key(key, [*beside, *GROUP_NAMES, *keys])
    if parent is not None and "_target_" in parent:
        return ConfigError(f"{error} A keyword that the preset leaves out is added with a plus: +{key}=VALUE.")
    return error


def _unknown_member(missing: str, options: list[str], text: str) -> ConfigError:
    group, _, name = missing.rpartition("/")
    if group in GROUP_NAMES and not options:  # Hydra names none for lists and experiments
        options = [preset.name for preset in presets(group, [packaged_folder(), *filter(None, [user_folder()])])]
    if group == "hydra/launcher" and name in INSTALL:
        return ConfigError(f"hydra/launcher={name} is not installed: {INSTALL[name]}.")
    if not options:
        return ConfigError(text)
    if group.startswith("hydra"):
        return ConfigError(f"There is no {group} '{name}'.{nearest(name, options)} Known: {', '.join(options)}.")
    return ConfigError(
        f"There is no {group or 'config'} '{name}'.{nearest(name, options)} Known: {', '.join(options)}. "
        f"`tlmtl list {group}` says what each one is."
    )
