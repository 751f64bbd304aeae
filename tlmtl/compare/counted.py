"""Which rows count: finished ones, and one run per config. What does not count is said in a note."""

import pandas as pd


def newest(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """One run per config: the newest that finished, else the newest. `rows` come sorted by run_id, so by time."""
    done = rows["status"] == "done"
    finished = rows[done].drop_duplicates(["config_hash", "task"], keep="last")
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
