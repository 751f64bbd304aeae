"""Which metric a task is compared by, and which way is better."""

import re

import pandas as pd

from tlmtl.compare import keys
from tlmtl.errors import ConfigError, nearest

LOWER_IS_BETTER = {"mae", "mse", "rmse", "loss", "ece", "error", "err", "nll", "brier", "perplexity"}


def sign(metric: str) -> int:
    """+1 where higher is better, -1 where lower is."""
    return -1 if LOWER_IS_BETTER & set(re.split(r"[^a-z0-9]+", metric.lower())) else 1


def names(rows: pd.DataFrame) -> list[str]:
    """The metrics measured on test or validation, filled or not: `accuracy` for `test/accuracy`."""
    columns = list(map(str, rows))
    ordered = [name for split in ("test/", "val/") for name in columns if name.startswith(split)]
    return list(dict.fromkeys(name.split("/", 1)[1] for name in ordered))


def finite(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """`rows` with infinite figures as missing ones, and a note on whose they were."""
    columns = [name for name in map(str, rows) if keys.is_metric(name)]
    wrong = rows[columns].isin([float("inf"), float("-inf")])
    if not wrong.any(axis=None):
        return rows, []
    runs = list(dict.fromkeys(rows.loc[wrong.any(axis=1), "run_id"]))
    which = ", ".join(name for name in columns if wrong[name].any())
    more = f" and {len(runs) - 3} more" if len(runs) > 3 else ""
    note = f"Infinite figures are left out of means and n ({which}): {', '.join(runs[:3])}{more}."
    return rows.assign(**rows[columns].mask(wrong)), [note]


def choose(rows: pd.DataFrame, metric: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """`rows` with the columns `metric` (a name), `test` and `val` (its values), less the rows that have neither; notes.

    Without a `metric`, each task is compared by its first test metric that was measured, else by its first validation
    metric. Raises ConfigError when `metric` is unknown.
    """
    known = names(rows)
    wanted = metric.removeprefix("test/").removeprefix("val/") if metric else None
    if wanted and wanted not in known:
        raise ConfigError(
            f"Unknown metric '{metric}' in --metric.{nearest(wanted, known)} "
            f"Known: {', '.join(known) or 'none, since no run has measured one'}."
        )
    parts, notes = [], []
    for (dataset, task), part in rows.groupby(["dataset", "task"], dropna=False):
        measured = _measured(part)
        name = wanted or next(iter(measured), None)
        if name is None or name not in measured:
            has = f"; it has {', '.join(measured)}" if measured else ""
            notes.append(f"Task {task} of {dataset} is left out: no run measured {wanted or 'a metric'}{has}.")
            continue
        both = {split: part.get(f"{split}/{name}") for split in ("test", "val")}
        part = part.assign(metric=name, **both).astype({"test": float, "val": float})
        parts.append(part[part["test"].notna() | part["val"].notna()])
        gaps = int(part["test"].isna().sum() if part["test"].notna().any() else part["val"].isna().sum())
        if gaps:
            notes.append(
                f"Task {task} of {dataset}: {gaps} of {len(part)} finished runs have no {name}; n counts the others."
            )
    if not parts:
        empty = pd.Series(dtype=float)
        return rows.iloc[:0].assign(metric=pd.Series(dtype="str"), test=empty, val=empty), notes
    return pd.concat(parts).sort_index(), notes


def _measured(rows: pd.DataFrame) -> list[str]:
    filled = rows[[name for name in map(str, rows) if keys.is_metric(name)]].notna().any()
    return names(rows[[name for name in filled.index if filled[name]]])
