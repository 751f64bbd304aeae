"""The command that makes the runs of a row again, from the row alone: its columns say all that was set."""

import re
import shlex
from functools import lru_cache
from typing import Any

import pandas as pd

from tlmtl.compare import keys
from tlmtl.presets import packaged_folder

GROUPS = {"model": "model", "source": "source", "dataset": "dataset", "strategy": "strategy", "optimizer": "optimizer",
          "sharing": "sharing", "weighting": "weighting"}  # fmt: skip
VALUES = {"labels_per_class": "dataset.labels_per_class", "label_fraction": "dataset.label_fraction",
          "epochs": "train.epochs", "batch_size": "train.batch_size", "lr": "optimizer.lr",
          "weight_decay": "optimizer.weight_decay"}  # fmt: skip
FURTHER = "->"  # in the data set of a row on a further test set


def command(rows: pd.DataFrame) -> str:
    """`tlmtl train ...` for `rows`, which differ in their seeds alone (and in the task of one run).

    What is as the packaged presets have it is left out. "" for rows that are no runs of tlmtl.
    """
    row: dict[str, Any] = {str(name): None if pd.isna(value) else value for name, value in rows.iloc[0].items()}
    if not row.get("strategy") or not row.get("dataset") or not row.get("model"):
        return ""
    row["dataset"] = str(row["dataset"]).split(FURTHER)[0]
    seeds = [_text(seed) for seed in sorted(rows["seed"].dropna().unique())] if "seed" in rows else []
    words = [*_choices(row), *_tasks(row), *_values(row), *_overrides(row)]
    words += [f"seed={','.join(seeds)}"] if seeds != ["0"] and seeds else []
    many = ["-m"] if len(seeds) > 1 else []
    return shlex.join(["tlmtl", "train", *many, *words])


def _choices(row: dict[str, Any]) -> list[str]:
    strategy = _strategy(str(row["strategy"]))
    default = {**_defaults(), **strategy["choices"]}
    found = [f"{group}={row[name]}" for name, group in GROUPS.items()
             if row.get(name) and (default.get(group) != row[name] or name == "strategy")]  # fmt: skip
    if default.get("source") != "none" and row.get("source") == "none":  # a source that nothing reads counts as none
        found.remove("source=none")
    terms = [term for term in str(row.get("terms") or "").split("+") if term and term not in strategy["terms"]]
    if terms:
        found.append(f"term=[{','.join(terms)}]")
    if row.get("precision") not in (None, "32-true"):
        found.append(f"hardware.precision={row['precision']}")
    return found


def _tasks(row: dict[str, Any]) -> list[str]:
    names = str(row.get("tasks") or "").split("+")
    preset = _yaml(f"dataset/{row['dataset']}.yaml")
    said = _strategy(str(row["strategy"])).get("tasks")
    usual = list(preset.get("tasks") or {}) if said == "all" else list(preset.get("default_tasks") or [])
    return [f"tasks=[{','.join(names)}]"] if names != [""] and sorted(names) != sorted(usual) else []


def _values(row: dict[str, Any]) -> list[str]:
    base = _yaml("config.yaml").get("train", {})
    dataset, optimizer = _yaml(f"dataset/{row['dataset']}.yaml"), _yaml(f"optimizer/{row.get('optimizer')}.yaml")
    usual = {
        "epochs": base.get("epochs"),
        "batch_size": base.get("batch_size"),
        "lr": _strategy(str(row["strategy"])).get("lr", _yaml("config.yaml").get("strategy", {}).get("lr")),
        "weight_decay": optimizer.get("weight_decay"),
        **{name: dataset.get(name) for name in ("labels_per_class", "label_fraction")},
    }
    loop = ("epochs", "batch_size", "lr", "weight_decay")
    unset = [name for name in loop if row.get(name) is None]  # nothing asks for it
    return [f"{key}={_text(row[name])}" for name, key in VALUES.items()
            if name in row and name not in unset and not _same(row[name], usual[name])]  # fmt: skip


def _overrides(row: dict[str, Any]) -> list[str]:
    """As they were given. A key that no packaged file has needs `++`."""
    said = str(row.get("overrides") or "")
    expanded, names = keys.expand(pd.DataFrame({"overrides": [said]}))
    pairs = [(name.removeprefix("overrides."), expanded[name].iloc[0]) for name in names]
    dropped = [part.strip() for part in said.split("; ") if part.strip().startswith("~")]
    return [*(f"{'' if _known(key, row) else '++'}{key}={_quoted(_text(value))}" for key, value in pairs), *dropped]


def _known(key: str, row: dict[str, Any]) -> bool:
    """Whether a packaged file has the key, so that Hydra takes it as it is; a choice of a group counts as one."""
    group, *rest = key.split(".")
    if not rest:
        return True
    at: Any = _yaml(f"{group}/{row[group]}.yaml") if row.get(group) else _yaml("config.yaml").get(group)
    for name in rest:
        if not isinstance(at, dict) or name not in at:
            return False
        at = at[name]
    return True


def _quoted(value: str) -> str:
    """In Hydra's quotes where its grammar would take the value apart; lists and mappings are written as it reads them."""
    if value[:1] in ("[", "{") or re.fullmatch(r"[\w./:+%@?*|~-]*", value):
        return value
    return "'" + value.replace("'", "\\'") + "'"


def _same(value: Any, usual: Any) -> bool:
    try:
        return float(value) == float(usual)
    except (TypeError, ValueError):
        return value == usual


def _text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return str(int(value)) if value == int(value) else repr(float(value))
    return str(value)


@lru_cache
def _yaml(name: str) -> dict[str, Any]:
    """A packaged preset, {} for one that is somebody's own."""
    import yaml

    path = packaged_folder() / name
    found = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return found if isinstance(found, dict) else {}


@lru_cache
def _defaults() -> dict[str, str]:
    chosen = [entry for entry in _yaml("config.yaml").get("defaults", []) if isinstance(entry, dict)]
    return {group: name for entry in chosen for group, name in entry.items() if isinstance(name, str)}


@lru_cache
def _strategy(name: str) -> dict[str, Any]:
    """What a packaged strategy sets, those that it stands on included: `choices` of other groups, `terms`, `lr`, `tasks`."""
    own = _yaml(f"strategy/{name}.yaml")
    found: dict[str, Any] = {"choices": {}, "terms": []}
    for entry in own.get("defaults", []):
        if isinstance(entry, str):
            base = _strategy(entry) if entry != "_self_" else {}
            found = {**found, **base, "choices": {**found["choices"], **base.get("choices", {})},
                     "terms": [*found["terms"], *base.get("terms", [])]}  # fmt: skip
            continue
        for key, value in entry.items():
            group = str(key).removeprefix("override ").lstrip("/").split("@")[0]
            if group == "term":
                found["terms"] = [*found["terms"], *value]
            else:
                found["choices"] = {**found["choices"], group: str(value)}
    return {**found, **{key: own[key] for key in ("lr", "tasks") if key in own}}
