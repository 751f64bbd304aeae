"""Which rows count: finished ones, and one run per config. What does not count is said in a note."""

import pandas as pd

# Runs that agree in all of these are one run made twice. A config alone does not say what was in a folder of images.
SAME = ["config_hash", "dataset", "task", "data_hash", "source_hash", "tlmtl", "device"]


def apart(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """`rows` with a group of its own for each data set and device that one `group_id` was run on, and a note on it."""
    notes = []
    for name in ("data_hash", "device"):
        if name in rows:
            several = rows.groupby(["group_id", "dataset"], dropna=False)[name].transform("nunique") > 1
            if several.any():
                rows = rows.assign(
                    group_id=rows["group_id"].where(~several, rows["group_id"] + " " + rows[name].fillna(""))
                )
                notes.append(
                    f"Runs of one config on different {name.replace('_hash', '')} are not repeats: kept apart by {name}."
                )
    return rows, notes


def together(rows: pd.DataFrame, names: list[str], settings: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """`rows` with one group for all that differ in the seed and the settings `names` alone, and a note on it.

    Folds are the case in mind: each has its own test split, so their data differ by intention.
    """
    once = rows.drop_duplicates(["config_hash", "dataset", "task"], keep="last") if "data_hash" in rows else rows
    older = [f"{len(rows) - len(once)} rows of older versions of the data left out."] if len(once) < len(rows) else []
    rows = once
    # rows of one run stand together, those of further test sets too
    apart = ("dataset", "task", "kind")
    same = [s for s in [*settings, "device", "precision"] if s in rows and s not in names and s not in apart]
    rows = rows.assign(group_id=rows.groupby(same, dropna=False).ngroup().astype(str))
    counts = {name: rows[name].nunique(dropna=False) for name in names}
    values = ", ".join(f"{name} ({count} values)" for name, count in counts.items())
    return rows, [f"Counted as repeats beside the seed: {values}.", *older]


def newest(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """One run per config: the newest that finished, else the newest. `rows` come sorted by run_id, so by time."""
    done = rows["status"] == "done"
    finished = rows[done].drop_duplicates([name for name in SAME if name in rows], keep="last")
    others = rows[~done].drop_duplicates(["config_hash", "task"], keep="last")
    others = others[~others["config_hash"].isin(finished["config_hash"])]
    kept = pd.concat([finished, others]).sort_index()
    left_out = rows.drop(kept.index)["run_id"].nunique()
    if not left_out:
        return kept, []
    runs = "1 run" if left_out == 1 else f"{left_out} runs"
    return kept, [f"{runs} left out: the same config and seed ran again, and the newest finished run counts once."]


def unfinished(rows: pd.DataFrame) -> list[str]:
    """Notes on `rows`, which did not finish: how many, and their first errors."""
    if rows.empty:
        return []
    counts = ", ".join(f"{count} {status}" for status, count in rows["status"].fillna("unknown").value_counts().items())
    notes = [f"{len(rows)} row{'s' * (len(rows) > 1)} not averaged: {counts}."]
    errors = rows["error"] if "error" in rows else pd.Series(dtype="str")
    first = errors.dropna().str.strip().str.split("\n").str[0].drop_duplicates()
    runs = rows["run_id"][first.index]
    notes += [f"{run}: {error}" for run, error in zip(runs[:3], first[:3], strict=True)]
    if len(first) > 3:
        notes.append(f"... and {len(first) - 3} other errors.")
    return notes
