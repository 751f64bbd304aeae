"""Other people's tables: what a CSV without our columns says of runs, groups and metrics, and what is filled in."""

import hashlib
import re
from pathlib import Path

import pandas as pd

from tlmtl import columns
from tlmtl.compare import keys
from tlmtl.errors import ConfigError

REQUIRED = ["run_id", "config_hash", "group_id", "status", "dataset", "task"]
UNNAMED = "unnamed"  # data set and task of a table that names none
METRICS = ["acc", "accuracy", "f1", "auc", "auroc", "map", "mae", "mse", "rmse", "r2", "error", "loss", "score", "ece"]
SEEDS = ["seed", "random_seed", "seed_id", "random_state", "rng", "trial", "repeat", "replicate"]
LABELS = re.compile(r"(^|[_\s.])(id|uuid|path|name|date|time|timestamp|created|url|host|user)$", re.IGNORECASE)


def is_foreign(names: list[str] | tuple[str, ...]) -> bool:
    return any(name not in names for name in REQUIRED)


def settings(rows: pd.DataFrame) -> list[str]:
    """Columns of `rows` that the contract doesn't know, and that are no metric: settings by which groups are told apart."""
    return [name for name in map(str, rows) if not _ours(name)]


def fill(rows: pd.DataFrame, file: Path, several: bool) -> tuple[pd.DataFrame, list[str]]:
    """`rows`, the cells of a foreign `file` as text under our names, with the columns of `REQUIRED` filled in; and notes.

    A group is all rows that agree in everything but seed, metrics and costs; every row is a finished run of its own. With
    `several` files of this sort a column `file` says which one a row is from. Raises ConfigError where no column is a metric.
    """
    names = list(map(str, rows))
    if not any(keys.is_metric(name) for name in names):
        raise ConfigError(_no_metric(names, file))
    labels = _labels(rows)
    rows = rows.drop(columns=labels)
    if several and "file" not in rows:
        rows["file"] = file.stem
    unique = [f"{file.name}:{line}" for line in range(2, len(rows) + 2)]
    lacking = [name for name in REQUIRED if name not in rows]
    own = {"run_id": unique, "config_hash": unique, "status": "done", "dataset": UNNAMED, "task": UNNAMED}
    for name, value in own.items():
        if name not in rows:
            rows[name] = value
    if "group_id" not in rows:
        apart = [
            name for name in [*columns.SETTINGS, *columns.PLAN, *settings(rows)] if name in rows and name != "seed"
        ]
        rows["group_id"] = _hashes(rows, [*apart, "dataset", "task"])
    told = [name for name in settings(rows) if name != "file"]
    notes = [
        f"{file} is not a table of tlmtl: every row counts as a finished run; rows that agree in all but seed, metrics and "
        f"costs are repeats. Filled in: {', '.join(lacking)}."
    ]
    if told:
        notes.append(f"Columns taken for settings: {', '.join(told)}. If one is a metric: --rename NAME=test/NAME.")
    if labels:
        notes.append(f"Columns left out, since they differ in every row: {', '.join(labels)}.")
    if "seed" not in rows:
        found = next((name for name in names if name.lower() in SEEDS), None)
        hint = f" Is it {found}? --rename {found}=seed" if found else " Name it by --rename theirs=seed"
        rows["seed"] = ""
        notes.append(f"No column is called seed: rows can't be paired with a baseline.{hint}.")
    return rows, notes


def _ours(name: str) -> bool:
    return name in keys.CONTRACT or keys.is_metric(name) or name == keys.FOLDER


def _labels(rows: pd.DataFrame) -> list[str]:
    """Columns that are no settings: what names the row (all cells differ, and it is called so), then what was measured:
    numbers with decimals that differ in nearly all rows, where rows are repeats without them."""
    n = len(rows)
    apart = [name for name in map(str, rows) if not _ours(name) and rows[name].nunique() >= 0.9 * n] if n > 2 else []
    named = [name for name in apart if LABELS.search(name) and rows[name].nunique() == n]
    numbers = rows[[name for name in apart if name not in named]].apply(pd.to_numeric, errors="coerce")
    decimal = [name for name in map(str, numbers) if numbers[name].notna().all() and (numbers[name] % 1 != 0).any()]
    others = [name for name in map(str, rows) if name not in (*named, *decimal) and name.lower() not in SEEDS]
    others = [name for name in others if not keys.is_measured(name)]
    repeated = not others or bool(rows.duplicated(others).any())
    return [name for name in apart if name in named or (repeated and name in decimal)]


def _hashes(rows: pd.DataFrame, names: list[str]) -> list[str]:
    texts = rows[names].astype("str").fillna("").agg("\x1f".join, axis=1)
    known = {text: hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts.unique()}
    return [known[text] for text in texts]


def _no_metric(names: list[str], file: Path) -> str:
    def like(words: list[str]) -> str | None:
        pieces = {name: set(re.split(r"[^a-z0-9]+", name.lower())) | {name.lower()} for name in names}
        return next((name for name in names if pieces[name] & set(words)), None)

    metric, seed = like(METRICS), like(SEEDS)
    told = re.sub(r"^(test|val|valid|eval)[^a-z0-9]+", "", (metric or "accuracy").lower())
    example = f"--rename {metric or 'theirs'}=test/{told}"
    if "seed" not in names:
        example += f" --rename {seed or 'theirs'}=seed"
    return (
        f"{file}: expected a column with a metric, called test/NAME or val/NAME, and one called seed. Found the columns "
        f"{', '.join(names)[:300]}. Name yours, such as {example}."
    )
