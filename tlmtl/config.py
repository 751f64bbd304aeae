"""The schema of a run's config, its checks, and `build()`, which turns a config node into the object it names.

The dataclasses describe the fixed top level. What a member of a group may hold is the signature of its `_target_`, so
that a typo in a preset is caught without a third file. Nothing here knows Hydra (`composition.py` does) or imports torch.
"""

import dataclasses
import importlib
import inspect
import types
import typing
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tlmtl.errors import ConfigError, nearest

# Per group: the packages that a `_target_` may come from, and the arguments that the program supplies itself.
# A config is data that may come from a stranger: nothing outside these packages is ever imported for it.
GROUPS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "model": (("tlmtl.models",), ("channels",)),
    "source": (("tlmtl.models.source",), ("encoder",)),
    "dataset": (("tlmtl.data",), ("split_seed", "val_fraction", "test_fraction")),
    "optimizer": (("torch.optim",), ("params",)),
    "schedule": (("tlmtl.optim",), ()),
    "weighting": (("tlmtl.weighting",), ("tasks",)),
    "sharing": (("tlmtl.models.multitask",), ("encoder", "heads")),
    "term": (("tlmtl.terms",), ()),
}


@dataclass
class Strategy:
    """What is initialised from the source, which parameters train, how fast, from when."""

    init: str = "source"  # source | random
    lr: float = 1e-3
    rules: list[dict[str, Any]] = field(default_factory=list)
    tasks: Any = "default"
    terms: dict[str, Any] = field(default_factory=dict)


@dataclass
class Task:
    """One task of a data set. `target` names the column of labels; the first metric is the main one."""

    kind: str = "classification"
    target: str | None = None  # the task's own name when not given
    metrics: list[str] = field(default_factory=list)  # the kind's own when empty
    primary: bool = True
    weight: float = 1.0


@dataclass
class Dataset:
    """What every data set has, whatever its family; the family's own keywords stand beside these."""

    tasks: dict[str, Task] = field(default_factory=dict)
    default_tasks: list[str] = field(default_factory=list)
    val_fraction: float = 0.2
    test_fraction: float = 0.25
    split_seed: int = 0
    subset_seed: int = 0
    labels_per_class: int | None = None
    label_fraction: float | None = None
    augment: str = "none"


@dataclass
class Head:
    """How new heads start: `near_zero` (normal, standard deviation 0.01) or `default` (torch's own)."""

    init: str = "near_zero"
    dropout: float = 0.0


@dataclass
class Train:
    """The budget and the loop's settings. Durations: `10` or `10ep` (epochs), `500st`, `20000ex` (examples), `5%`."""

    epochs: Any = 60
    batch_size: int = 32
    accumulate: int = 1
    clip: float | None = None
    ema: float | None = None
    early_stopping: Any = None
    evaluate_every: Any = "5%"
    checkpoint_every: Any = "5%"


@dataclass
class Hardware:
    """How a run is executed. `threads: auto` is one for small models and all cores for the others."""

    device: str = "auto"
    precision: str = "32-true"
    threads: Any = "auto"
    deterministic: bool = True
    memory_format: str = "contiguous"
    compile: bool = False
    workers: int | None = None


@dataclass
class Output:
    root: str = "outputs"
    cache: str | None = None
    keep_checkpoint: bool = False


@dataclass
class Sweep:
    name: str | None = None


@dataclass
class Composed:
    """How the config came about: filled in by `composition.py`, never part of a run's identity."""

    choices: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)


@dataclass
class Config:
    model: dict[str, Any] = field(default_factory=dict)
    source: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    strategy: Strategy = field(default_factory=Strategy)
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)
    weighting: dict[str, Any] = field(default_factory=dict)
    sharing: dict[str, Any] = field(default_factory=dict)
    term: dict[str, Any] = field(default_factory=dict)
    head: Head = field(default_factory=Head)
    train: Train = field(default_factory=Train)
    hardware: Hardware = field(default_factory=Hardware)
    tasks: Any = "default"
    seed: int = 0
    output: Output = field(default_factory=Output)
    sweep: Sweep = field(default_factory=Sweep)
    resume: str | None = None
    progress: bool = True
    allow: list[str] = field(default_factory=list)
    composed: Composed = field(default_factory=Composed)


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
        OmegaConf.resolve(resolved := typing.cast(DictConfig, merged.copy()))
    except OmegaConfBaseException as error:
        raise omegaconf_error(error, known_keys(OmegaConf.structured(Config))) from error
    check_dataset(resolved.dataset, "dataset")
    for name, task in resolved.dataset.get("tasks", {}).items():
        typed(Task, task, f"dataset.tasks.{name}")
    return typing.cast(DictConfig, merged)


def omegaconf_error(error: OmegaConfBaseException, known: list[str]) -> ConfigError:
    """An OmegaConf error in this program's words: what was expected, what was found, where."""
    key = error.full_key or str(error.key or "")
    if type(error).__name__ in ("ConfigKeyError", "ConfigAttributeError"):
        return unknown_key(key, known)
    return ConfigError(f"Wrong value at '{key}': {str(error).splitlines()[0]}")


def typed(schema: type, node: Any, where: str) -> DictConfig:
    """`node` as the dataclass `schema` describes it. Raises ConfigError naming `where.key`."""
    fields = [item.name for item in dataclasses.fields(schema)]
    for key in node:
        if key not in fields:
            raise unknown_key(f"{where}.{key}", [f"{where}.{name}" for name in fields])
    try:
        return typing.cast(DictConfig, OmegaConf.merge(OmegaConf.structured(schema), node))
    except OmegaConfBaseException as error:
        key = f"{where}.{error.full_key or error.key}"
        raise ConfigError(f"Wrong value at '{key}': {str(error).splitlines()[0]}") from error


def check_dataset(node: DictConfig, where: str) -> tuple[DictConfig, dict[str, Any]]:
    """The common settings of a data set, typed, and the keywords of its family."""
    common = {key: value for key, value in node.items() if key in Dataset.__dataclass_fields__}
    family = {str(key): value for key, value in node.items() if key not in Dataset.__dataclass_fields__}
    return typed(Dataset, OmegaConf.create(common), where), family


def find_target(node: Any, group: str, where: str, allow: list[str]) -> Any:
    """The callable that `node._target_` names. Raises ConfigError unless it is defined in an allowed package."""
    path = node.get("_target_") if node is not None else None
    if not path:
        raise ConfigError(f"'{where}' has no _target_: expected the name of what to build, found {sorted(node or [])}.")
    packages = [*GROUPS[group][0], *allow]

    def allowed(name: str) -> bool:
        return any(name == package or name.startswith(package + ".") for package in packages)

    refusal = ConfigError(
        f"'{where}._target_' may not be '{path}': a {group} comes from {' or '.join(packages)}. "
        f"To use code of your own, name its package on the command line: 'allow=[{path.split('.')[0]}]'."
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
    schema = dataclasses.make_dataclass(
        "Keywords", [(name, _omegaconf_type(hints.get(name, Any)), field(default=None)) for name in parameters]
    )
    checked = {}
    for key, value in given.items():
        checked[key] = getattr(_set(schema, key, value, where), key)
    for name, parameter in parameters.items():
        if name not in given and parameter.default is parameter.empty:
            raise ConfigError(f"'{where}.{name}' has no value. Set it on the command line: {where}.{name}=VALUE.")
    return target, {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in checked.items()}


def _set(schema: type, key: str, value: Any, where: str) -> DictConfig:
    try:
        return typing.cast(DictConfig, OmegaConf.merge(OmegaConf.structured(schema), {key: value}))
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(f"Wrong value at '{where}.{key}': {str(error).splitlines()[0]}") from error


def _omegaconf_type(hint: Any) -> Any:
    """`hint`, or Any where OmegaConf has no such type (tensors, callables); always optional."""
    simple = (int, float, str, bool)
    inner = [part for part in typing.get_args(hint) if part is not type(None)]
    if hint in simple or (len(inner) == 1 and inner[0] in simple and type(None) in typing.get_args(hint)):
        return (inner[0] if inner else hint) | None
    if typing.get_origin(hint) is list and inner and inner[0] in simple:
        return types.GenericAlias(list, (inner[0],)) | None
    return Any


def build(node: Any, group: str, where: str = "", allow: list[str] | None = None, **supplied: Any) -> Any:
    """The object that `node` (`_target_` plus keywords) names, built with the arguments the program `supplied`."""
    target, arguments = keywords(node, group, where or group, list(allow or []))
    accepted = inspect.signature(target).parameters
    return target(**{k: v for k, v in supplied.items() if k in accepted}, **arguments)
