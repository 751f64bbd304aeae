"""What OmegaConf says of a wrong value, in a user's words, and the wrong values that it lets through."""

import dataclasses
import typing
from typing import Any

from omegaconf import OmegaConf

from tlmtl.errors import ConfigError

NAMES = {int: "whole numbers", float: "numbers", str: "words", bool: "true or false"}


def reason(error: Exception, found: Any) -> str:
    """Why OmegaConf refuses the value `found`."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    if "is not a ListConfig" in first:
        return f"expected a list, such as [{shown(found)}]. Found {shown(found)}."
    return first


def at(node: Any, key: str) -> Any:
    """What stands at the dotted `key` of `node`, as it is written; None where nothing does."""
    found = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return OmegaConf.to_container(found, resolve=False) if OmegaConf.is_config(found) else found


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = str(OmegaConf.to_container(value, resolve=False) if OmegaConf.is_config(value) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_lists(schema: type, node: Any, where: str = "") -> None:
    """Raises ConfigError for an item of a typed list (`list[int]`) that is null or a list itself, in `node` and below: merging
    lets them through."""
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        key, value = f"{where}.{item.name}".lstrip("."), node[item.name]
        if dataclasses.is_dataclass(hints[item.name]) and value is not None:
            check_lists(typing.cast(type, hints[item.name]), value, key)
        elif typing.get_origin(hints[item.name]) is list and typing.get_args(hints[item.name])[0] in NAMES:
            check_list(value, typing.get_args(hints[item.name])[0], key)


def check_list(value: Any, kind: type, where: str) -> None:
    if value is None:
        raise ConfigError(f"'{where}' should be a list of {NAMES[kind]}, [] for none. Found null.")
    for one in value:
        if one is None or OmegaConf.is_config(one) or isinstance(one, list | dict):
            raise ConfigError(f"'{where}' should be a list of {NAMES[kind]}. Found {shown(value)}.")
