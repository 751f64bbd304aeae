"""Δm: what a multi-task run gained or lost per task against *measured* single-task runs, in percent; positive is better.

delta of a task = 100 (-1)^l (M - B) / |B|, with l = 1 where a lower figure is better, M the run's test figure of the metric
that the task is compared by, and B that of its baseline. delta_m = the mean of delta over the run's primary tasks
(Maninis et al. 2019; Vandenhende et al. 2021). B is never a constant and never a figure of other seeds or other data.

Deltas are made of single runs, before rows are grouped, filtered or chosen from: a filter that hides the baselines does not
take them away.
"""

import numpy as np
import pandas as pd

from tlmtl.compare import metrics

# A run and its baseline agree in these. `baseline_id` is equal for runs that differ in tasks, sharing and weighting alone.
SAME = ["baseline_id", "seed", "data_hash", "source_hash", "dataset", "task", "device", "precision"]
LOOSE = ["baseline_id", "seed", "dataset", "task"]  # the least by which a user would call a run the missing one
COLUMNS = ["delta", "delta_m"]
FURTHER = "->"  # in the `dataset` of a row on a further test set


def is_shared(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of runs in which several tasks share parameters; of one head each, not of several fused."""
    tasks, sharing, task = (_text(rows, name) for name in ("tasks", "sharing", "task"))
    return tasks.str.contains("+", regex=False) & (sharing != "none") & ~task.str.startswith("fused:")


def is_single(rows: pd.DataFrame) -> pd.Series:
    """Which rows can be a baseline: of separate models (`sharing=none`), or of a run with that task alone."""
    tasks, sharing, task = (_text(rows, name) for name in ("tasks", "sharing", "task"))
    return ((sharing == "none") | (tasks == task)) & ~task.str.startswith("fused:")


def is_primary(rows: pd.DataFrame) -> pd.Series:
    return _text(rows, "primary").str.lower() != "false"


def of(rows: pd.DataFrame, finished: pd.DataFrame | None = None) -> pd.DataFrame:
    """The gains of `rows`: finished ones, with `metric` and `test`, those of the baselines among them.

    `finished`: all finished rows, those without the metric too, which say what primary tasks a run has; by default `rows`.

    Returns a frame with the index of `rows` and the columns `delta` (percent; missing without a baseline, or with one of
    0), `delta_m` (percent, the same for each task of a run on one test set; missing unless every primary task of the run
    has its delta), `whole` (whether every primary task of the run is in `rows`), `baseline` (its run_id) and `lacks` (why
    there is none: `none`, or `other` and the columns in which the one there is differs; missing where none is due). Of
    several baselines one of the same version of tlmtl counts first, then separate models before single-task runs, then
    the newest.
    """
    shared = rows[is_shared(rows)]
    found = pd.DataFrame({"delta": np.nan, "delta_m": np.nan}, index=rows.index)
    found = found.assign(whole=True, baseline=pd.Series(dtype="str"), lacks=pd.Series(dtype="str"))
    if shared.empty or "baseline_id" not in rows:
        return found
    shared = shared[shared["baseline_id"].notna()]
    single = rows[is_single(rows) & rows["baseline_id"].notna()]
    # the best baseline first; its metric has to be the one that the run is compared by, which is the same for a task
    single = single.assign(alone=_text(single, "sharing") != "none")
    single = single.sort_values(["alone", "run_id"], ascending=[True, False], kind="stable")
    same = [name for name in SAME if name in rows]
    beside = _beside(shared, single, same)
    if "tlmtl" in rows:
        version = _beside(shared, single, [*same, "tlmtl"])
        beside = version.where(version["run_id"].notna(), beside)
    base = beside["test"].where(beside["test"] != 0)
    delta = 100 * shared["metric"].map(metrics.sign).astype(float) * (shared["test"] - base) / base.abs()
    found.loc[shared.index, "delta"] = delta
    found.loc[shared.index, "baseline"] = beside["run_id"]
    due = _primary_tasks(rows if finished is None else finished)
    found["whole"] = (rows["run_id"].map(_primary_tasks(rows)).fillna(0) >= rows["run_id"].map(due).fillna(0)).astype(
        bool
    )
    found.loc[shared.index, "delta_m"] = _mean(shared, delta, due)
    lonely = shared[beside["run_id"].isna() & shared["test"].notna()]
    found.loc[lonely.index, "lacks"] = _reason(lonely, single, same)
    return found


def _beside(shared: pd.DataFrame, single: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """`run_id` and `test` of the first of `single` that agrees with each row of `shared` in `by`; missing where none does."""
    first = single.drop_duplicates(by)[[*by, "run_id", "test"]]
    return shared[by].merge(first, on=by, how="left", validate="m:1").set_index(shared.index)


def _primary_tasks(rows: pd.DataFrame) -> pd.Series:
    """How many primary tasks each run has on its own data, by run_id."""
    own = rows[is_primary(rows) & ~_text(rows, "task").str.startswith("fused:")]
    own = own[~own["dataset"].str.contains(FURTHER, regex=False)]
    return own.groupby("run_id")["task"].nunique()


def _mean(shared: pd.DataFrame, delta: pd.Series, due: pd.Series) -> pd.Series:
    """The mean of `delta` over primary tasks, per run and test set; missing unless all that are `due` have one."""
    counted = delta.where(is_primary(shared)).groupby([shared["run_id"], shared["dataset"]])
    return counted.transform("mean").where(counted.transform("count") == shared["run_id"].map(due))


def _reason(lonely: pd.DataFrame, single: pd.DataFrame, same: list[str]) -> pd.Series:
    loose = [name for name in LOOSE if name in same]
    strict = [name for name in same if name not in loose]
    first = single.drop_duplicates(loose)[[*loose, *strict, "run_id"]]
    near = lonely[loose].merge(first, on=loose, how="left").set_index(lonely.index)
    reason = pd.Series("none", index=lonely.index, dtype="str")
    for name in strict:
        differs = near["run_id"].notna() & (near[name].fillna("") != lonely[name].fillna(""))
        reason = reason.where(~differs, reason.where(reason != "none", "other") + f" {name}")
    return reason


def _text(rows: pd.DataFrame, name: str) -> pd.Series:
    cells = rows[name] if name in rows else pd.Series("", index=rows.index)
    return cells.astype("str").fillna("")
