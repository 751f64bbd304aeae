"""Which rows count: finished ones, and one run per config. What does not count is said in a note."""

import pandas as pd

# Runs that agree in all of these are one run made twice. A config alone does not say what was in a folder of images.
SAME = ["config_hash", "dataset", "task", "data_hash", "source_hash", "tlmtl", "device"]


def of_run(rows: pd.DataFrame, name: str) -> pd.Series:
    """Column `name` as one text for each run and test set: the tasks of a joint data set have a `data_hash` each."""
    by = ["run_id", "dataset"]
    pairs = rows[[*by, name]].dropna(subset=[name]).drop_duplicates()
    if not pairs.duplicated(by).any():
        return rows[name]
    joined = pairs.sort_values(name).groupby(by, dropna=False)[name].agg("+".join).rename("joined").reset_index()
    return rows[by].merge(joined, on=by, how="left").set_index(rows.index)["joined"]


def apart(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """`rows` with a group of its own for each data set and device that one `group_id` was run on, and a note on it.

    Runs differ where a task of theirs does: that tasks of one run stand on different parts of a joint data set is no
    difference. All rows of a run stay in one group.
    """
    notes = []
    for name in ("data_hash", "device"):
        if name in rows:
            by = ["group_id", "dataset"]
            differs = rows.groupby([*by, "task"], dropna=False)[name].transform("nunique") > 1
            several = rows[by].assign(differs=differs).groupby(by, dropna=False)["differs"].transform("any")
            if several.any():
                own = rows["group_id"] + " " + of_run(rows, name).fillna("")
                rows = rows.assign(group_id=rows["group_id"].where(~several, own))
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
    finished = rows[done]
    # by the data of all its tasks: where one part of a joint data set changed, the older run stays whole
    same = finished.assign(data_hash=of_run(finished, "data_hash")) if "data_hash" in rows else finished
    finished = finished[~same.duplicated([name for name in SAME if name in rows], keep="last")]
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
