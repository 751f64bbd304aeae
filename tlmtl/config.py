"""The checks of a run's config, and `build()`, which turns a config node into the object it names.

The dataclasses of `schema.py` describe the fixed top level. What a member of a group may hold is the signature of its
`_target_`, so that a typo in a preset is caught without a third file. Nothing here knows Hydra (`composition.py` does) or
imports torch.
"""

import dataclasses
import importlib
import inspect
import pickle
import types
import typing
from dataclasses import field
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tlmtl.errors import ConfigError, nearest
from tlmtl.schema import Config, Dataset, Task
from tlmtl.values import at, check_list, check_lists, reason, shown

# Per group: the packages that a `_target_` may come from, and the arguments that the program supplies itself.
# A config is data that may come from a stranger: nothing outside these packages is ever imported for it.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model": (("tlmtl.models",), ("channels",)),
    "source": (("tlmtl.models.source", "tlmtl.models.weights", "tlmtl.models.packages"), ("encoder",)),
    "dataset": (("tlmtl.data",), ("split_seed", "val_fraction", "test_fraction", "kinds", "cache")),
    "optimizer": (("torch.optim",), ("params",)),
    "schedule": (("tlmtl.optim",), ()),
    "weighting": (("tlmtl.weighting",), ("tasks", "steps_per_epoch")),
    "sharing": (("tlmtl.sharing",), ("encoder", "heads")),
    "term": (("tlmtl.terms",), ()),
    "fusion": (("tlmtl.fusion",), ()),
    "logger": (("tlmtl.logger",), ()),
    "solver": (("tlmtl.solvers",), ()),
}


def known_keys(cfg: Any, prefix: str = "") -> list[str]:
    """Every key of `cfg`, nested ones dotted, for suggestions."""
    found = []
    for key in cfg:
        found.append(prefix + str(key))
        node = OmegaConf.select(cfg, str(key), throw_on_missing=False) if OmegaConf.is_dict(cfg) else None
        if OmegaConf.is_dict(node):
            found += known_keys(node, f"{prefix}{key}.")
    return found


def unknown_key(key: str, known: list[str], where: str = "") -> ConfigError:
    """The message for a key that nothing reads; the nearest known one is looked for by full name, then by its end."""
    leaf = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    hint = nearest(key, known) or nearest(key.rsplit(".", 1)[-1], list(leaf))
    for short, full in leaf.items():
        hint = hint.replace(f"'{short}'", f"'{full}'")
    place = f" in {where}" if where else ""
    return ConfigError(f"Unknown key '{key}'{place}.{hint} `tlmtl train --cfg job` shows every key there is.")


def merge_schema(cfg: DictConfig) -> DictConfig:
    """`cfg` with the types of `Config`. Raises ConfigError for unknown keys (also those added with `+`), wrong types
    and missing values. Interpolations stay as they are."""
    cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    for key in cfg:
        if key not in Config.__dataclass_fields__:
            raise unknown_key(str(key), known_keys(OmegaConf.structured(Config)))
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError(f"'{missing[0]}' has no value. Set it on the command line: {missing[0]}=VALUE.")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), cfg)
    except OmegaConfBaseException as error:
        raise omegaconf_error(error, known_keys(OmegaConf.structured(Config)), cfg) from error
    resolved = resolve(typing.cast(DictConfig, merged))
    check_lists(Config, resolved)
    check_seed(resolved.seed, "seed")
    check_dataset(resolved.dataset, "dataset")
    for name, task in resolved.dataset.get("tasks", {}).items():
        typed(Task, task, f"dataset.tasks.{name}")
    return typing.cast(DictConfig, merged)


def resolve(cfg: DictConfig) -> DictConfig:
    """A copy of `cfg` with every `${...}` in its place. Raises ConfigError with the key of one that leads nowhere."""
    copy = cfg.copy()
    try:
        OmegaConf.resolve(copy)
    except (OmegaConfBaseException, RecursionError) as error:
        for key in known_keys(cfg):
            try:
                OmegaConf.select(cfg, key, throw_on_resolution_failure=True)
            except (OmegaConfBaseException, RecursionError):
                what = at(cfg, key)
                raise ConfigError(f"Wrong value at '{key}': {shown(what)} leads nowhere ({_first(error)}).") from error
        raise ConfigError(f"A reference in the config leads nowhere: {_first(error)}.") from error
    return copy


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_seed(value: int, where: str) -> None:
    if not 0 <= value < 2**63:
        raise ConfigError(f"'{where}' should be 0 or more, and below 2**63. Found {value}.")


def _where(schema: type, node: Any) -> str:
    """The dotted key, as deep as can be told, whose value does not fit the schema, for errors that do not say it themselves."""

    def fits(path: list[Any], value: Any) -> bool:
        for key in reversed(path):
            value = {key: value}
        try:
            OmegaConf.merge(OmegaConf.structured(schema), value)
        except OmegaConfBaseException:
            return False
        return True

    def look(path: list[Any], value: Any) -> str:
        for key, one in value.items() if isinstance(value, dict) and fits(path, {}) else ():
            if not fits([*path, key], one):
                return look([*path, key], one)
        return ".".join(map(str, path))

    return look([], OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node)


def omegaconf_error(error: OmegaConfBaseException, known: list[str], cfg: DictConfig | None = None) -> ConfigError:
    """An OmegaConf error in this program's words: what was expected, what was found, where.

    Arguments:
        cfg: what did not fit, to find the place of an error that does not say it.
    """
    key = error.full_key or str(error.key or "") or (_where(Config, cfg) if cfg is not None else "")
    if type(error).__name__ in ("ConfigKeyError", "ConfigAttributeError"):
        return unknown_key(key, known)
    return ConfigError(f"Wrong value at '{key}': {reason(error, at(cfg, key))}")


def typed(schema: type, node: Any, where: str) -> DictConfig:
    """`node` as the dataclass `schema` describes it. Raises ConfigError naming `where.key`."""
    content = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)
    return pickle.loads(_typed(schema, pickle.dumps(content), where))


@lru_cache(maxsize=1024)  # jobs of a sweep mostly have the same tasks
def _typed(schema: type, content: bytes, where: str) -> bytes:
    node = pickle.loads(content)
    fields = [item.name for item in dataclasses.fields(schema)]
    for key in node:
        if key not in fields:
            raise unknown_key(f"{where}.{key}", [f"{where}.{name}" for name in fields])
    try:
        merged = typing.cast(DictConfig, OmegaConf.merge(OmegaConf.structured(schema), node))
    except OmegaConfBaseException as error:
        key = str(error.full_key or error.key or _where(schema, node))
        raise ConfigError(f"Wrong value at '{where}.{key}': {reason(error, at(node, key))}") from error
    check_lists(schema, merged, where)
    return pickle.dumps(merged)


def check_dataset(node: DictConfig, where: str) -> tuple[DictConfig, dict[str, Any]]:
    """The common settings of a data set, typed, and the keywords of its family."""
    common = {key: value for key, value in node.items() if key in Dataset.__dataclass_fields__}
    family = {str(key): value for key, value in node.items() if key not in Dataset.__dataclass_fields__}
    checked = typed(Dataset, OmegaConf.create(common), where)
    for key in ("split_seed", "subset_seed"):
        check_seed(checked[key], f"{where}.{key}")
    return checked, family


def find_target(node: Any, group: str, where: str, allow: list[str]) -> Any:
    """The callable that `node._target_` names. Raises ConfigError unless it is defined in an allowed package."""
    if node is not None and not OmegaConf.is_dict(node) and not isinstance(node, dict):
        raise ConfigError(f"'{where}' should be a section with a _target_. Found {shown(node)}.")
    path = node.get("_target_") if node is not None else None
    if path and not isinstance(path, str):
        raise ConfigError(f"'{where}' has no name of what to build: '{where}._target_' is {shown(path)}.")
    if not path:
        found = sorted(map(str, node or []))
        raise ConfigError(f"'{where}' has no _target_: expected the name of what to build, found {found}.")
    packages = [*GROUPS[group][0], *allow]

    def allowed(name: str) -> bool:
        return any(name == package or name.startswith(package + ".") for package in packages)

    refusal = ConfigError(
        f"'{where}._target_' may not be '{path}': a {group} comes from {' or '.join(packages)}. "
        f"To use code of your own, name its package on the command line: 'allow=[{path.split('.')[0]}]' for train and check, "
        f"--allow {path.split('.')[0]} for the other commands."
    )
    module, _, name = path.rpartition(".")
    if not allowed(path) or not module:
        raise refusal
    try:
        target = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"'{where}._target_' names '{path}', which cannot be imported: {error}.") from error
    if not callable(target) or not allowed(
        str(getattr(target, "__module__", ""))
    ):  # nothing that was merely imported there
        raise refusal
    return target


def keywords(node: Any, group: str, where: str, allow: list[str]) -> tuple[Any, dict[str, Any]]:
    """The callable that `node` names and its keywords, checked against the callable's signature.

    Raises ConfigError for an unknown keyword (with the nearest), a wrong type or a missing one.
    """
    target = find_target(node, group, where, allow)
    supplied = GROUPS[group][1]
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(target).parameters.items()
        if name not in supplied and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    given = {key: value for key, value in node.items() if key != "_target_"}
    for key in given:
        if key not in parameters:
            raise unknown_key(f"{where}.{key}", [f"{where}.{name}" for name in parameters], node["_target_"])
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    schema: type | None = None
    checked = {}
    for key, value in given.items():
        hint = hints.get(key, Any)
        if value is None and _omegaconf_type(hint) is not Any and type(None) not in typing.get_args(hint):
            raise ConfigError(f"'{where}.{key}' may not be null: {node['_target_']} needs a value.")
        if _is_as_wanted(value, _omegaconf_type(hint)):
            checked[key] = value
            continue
        schema = schema or dataclasses.make_dataclass(
            "Keywords", [(name, _omegaconf_type(hints.get(name, Any)), field(default=None)) for name in parameters]
        )
        checked[key] = getattr(_set(schema, key, value, where), key)
    for name, parameter in parameters.items():
        if name not in given and parameter.default is parameter.empty:
            raise ConfigError(f"'{where}.{name}' has no value. Set it on the command line: {where}.{name}=VALUE.")
    return target, {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in checked.items()}


def _set(schema: type, key: str, value: Any, where: str) -> DictConfig:
    try:
        merged = typing.cast(DictConfig, OmegaConf.merge(OmegaConf.structured(schema), {key: value}))
    except (OmegaConfBaseException, ValueError, OverflowError) as error:
        raise ConfigError(f"Wrong value at '{where}.{key}': {reason(error, value)}") from error
    hint = next(iter(typing.get_args(typing.get_type_hints(schema)[key])), None)  # list[int] of list[int] | None
    if typing.get_origin(hint) is list and merged[key] is not None:
        check_list(merged[key], typing.get_args(hint)[0], f"{where}.{key}")
    return merged


def _is_as_wanted(value: Any, wanted: Any) -> bool:
    """Whether `value` is of the type already, so that nothing is to be converted: quickly told, for what most values are."""
    if isinstance(value, str) and ("${" in value or value == "???"):
        return False
    kinds = (int, float, str, bool, type(None))
    return type(value) in (kinds if wanted is Any else [one for one in typing.get_args(wanted) if one in kinds])


def _omegaconf_type(hint: Any) -> Any:
    """`hint`, or Any where OmegaConf has no such type (tensors, callables); always optional."""
    simple = (int, float, str, bool)
    inner = [
        part for part in typing.get_args(hint) if part is not type(None) and getattr(part, "__name__", "") != "Tensor"
    ]
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    if hint in simple or (union and len(inner) == 1 and inner[0] in simple):
        return (inner[0] if inner else hint) | None
    if typing.get_origin(hint) is list and inner and inner[0] in simple:
        return types.GenericAlias(list, (inner[0],)) | None
    return Any


def build(node: Any, group: str, where: str = "", allow: list[str] | None = None, **supplied: Any) -> Any:
    """The object that `node` (`_target_` plus keywords) names, built with the arguments the program `supplied`."""
    target, arguments = keywords(node, group, where or group, list(allow or []))
    accepted = inspect.signature(target).parameters
    return target(**{k: v for k, v in supplied.items() if k in accepted}, **arguments)
