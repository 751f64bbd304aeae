"""What the table says about gains of multi-task runs: which groups lost, how sure that is, and which baselines are missing."""

import pandas as pd

from tlmtl import columns
from tlmtl.compare import delta, printed, stats

MOST = 3  # lines on missing baselines, and on negative transfer
# What a baseline may differ in, and what its rows are told apart by: nothing to repeat in a command.
OPEN = ["dataset", "task", "kind", "tasks", "sharing", "weighting", "strategy"]


def half_width(sd: pd.Series, n: pd.Series) -> pd.Series:
    """Half the 95 % t-interval of a mean over `n` pairs with standard deviation `sd` (ddof 1); missing below two."""
    return pd.Series(stats.half_width(sd, n), index=sd.index)


def negative(groups: pd.DataFrame) -> pd.Series:
    """Which groups lost for sure: the whole interval of `delta` lies below zero."""
    return groups["delta"] + groups["delta_half"] < 0


def notes(groups: pd.DataFrame, rows: pd.DataFrame, settings: list[str], metric: str | None = None) -> list[str]:
    """What to say about the gains of `groups`, made of the run rows `rows`: a few lines, or none without multi-task runs.

    `metric`: the one that was asked for, of all tasks.
    """
    shared = groups[groups["delta"].notna()]
    return [
        *_losses(groups, settings),
        *_alone(shared),
        *_fewer(shared),
        *_missing(rows, settings),
        *_partial(rows, metric),
        *_other(rows),
    ]


def _losses(groups: pd.DataFrame, settings: list[str]) -> list[str]:
    lost = negative(groups)
    if not lost.any():
        return []
    names = _names(groups[groups["delta"].notna()], settings)
    said = []
    worst = groups[lost].sort_values("delta", kind="stable").head(MOST).assign(name=names)
    for _, group in worst.iterrows():
        loss, half = -group["delta"], group["delta_half"]
        digits = 1 if loss >= 1 else 2
        said.append(
            f"Negative transfer: task {_task(group)} of {group['name']} loses {loss:.{digits}f} % ± {half:.{digits}f} % "
            f"(n = {group['delta_n']:.0f})."
        )
    if (more := int(lost.sum()) - MOST) > 0:
        said.append(f"... and {more} more, marked {printed.LOST}.")
    return [
        *said,
        "Intervals are seed-paired 95 % t-intervals, not corrected for several tasks: one in 40 lies below zero by luck.",
    ]


def _task(group: pd.Series) -> str:
    further = str(group["dataset"]).partition(delta.FURTHER)[2]
    return f"{group['task']} ({group['dataset']})" if further else str(group["task"])


def _names(groups: pd.DataFrame, settings: list[str]) -> pd.Series:
    """`strategy · weighting`, and what else tells the groups apart."""
    kept = [name for name in ("strategy", "weighting") if name in groups]
    for name in [name for name in settings if name not in ("dataset", "task", "kind")]:  # said with the task
        if not groups.duplicated([*kept, "dataset", "task"]).any():
            break
        if name not in kept and groups[name].nunique(dropna=False) > 1:
            kept.append(name)
    texts = groups[kept].apply(printed.settings)
    return texts.apply(lambda row: " · ".join(filter(None, row)), axis=1).astype("str")


def _alone(shared: pd.DataFrame) -> list[str]:
    single = shared["delta_n"] == 1
    if not single.any():
        return []
    which = "Every delta" if single.all() else f"{int(single.sum())} of {len(shared)} deltas"
    return [f"{which} is from one seed, which has no interval: negative transfer can't be told. Run more seeds."]


def _fewer(shared: pd.DataFrame) -> list[str]:
    fewer = int((shared["delta_n"] < shared["n"]).sum())
    if not fewer:
        return []
    which = "A delta is" if fewer == 1 else f"{fewer} deltas are"
    return [f"{which} of fewer seeds than the figure beside: only seeds that have a single-task run are paired."]


def _missing(rows: pd.DataFrame, settings: list[str]) -> list[str]:
    """Which single-task runs to add, as settings to give again: one line for each set-up that lacks them."""
    if "baseline_id" not in rows or "lacks" not in rows:
        old = rows[delta.is_shared(rows)]
        return _older(old)
    shared = rows[delta.is_shared(rows)]
    lonely = shared[shared["lacks"].notna()]
    if lonely.empty:
        return _older(shared[shared["baseline_id"].isna()])
    varying = [name for name in [*settings, "device", "precision"] if name in rows and name not in OPEN]
    varying = [name for name in varying if not name.startswith(("weighting.", "sharing."))]
    varying = [name for name in varying if rows[name].nunique(dropna=False) > 1]
    said = []
    for _, part in lonely.groupby(["baseline_id", "lacks"], sort=False):
        setup = [("strategy", _listed(part["strategy"]))]
        for name in [*varying, "seed"]:
            setup.append((_key(name), _listed(part[name].sort_values())))
        whole = shared.loc[shared["run_id"].isin(part["run_id"]), "task"].nunique() == part["task"].nunique()
        tasks = "" if whole else f" for task {_listed(part['task'])}"
        other = part["lacks"].iloc[0].removeprefix("other").strip()
        why = "" if other == "none" else f" (those there are have another {other.replace(' ', ', ')})"
        words = " ".join(f"{name}={value}" for name, value in setup if value)
        said.append(f"none{tasks} for {words}{why}")
    start = "Δm needs measured single-task runs: "
    if len(said) > MOST:
        said = [*said[: MOST - 1], f"... and none for {len(said) - MOST + 1} more set-ups"]
    said[-1] += ". To add them, give the same command again with sharing=none."
    return [start + said[0], *(" " * len(start) + line for line in said[1:])]


def _older(rows: pd.DataFrame) -> list[str]:
    if rows.empty:
        return []
    return ["No Δm for multi-task runs of older versions of tlmtl: they name no baseline (column baseline_id)."]


def _partial(rows: pd.DataFrame, metric: str | None) -> list[str]:
    """Why runs have a `delta` and no `delta_m` although no baseline is missing: the metric left tasks of theirs out."""
    if metric is None or "whole" not in rows or not (rows["delta"].notna() & ~rows["whole"].astype(bool)).any():
        return []
    return [f"Δm needs all primary tasks: without --metric. Some were not measured by {metric}."]


def _other(rows: pd.DataFrame) -> list[str]:
    if "baseline" not in rows:
        return []
    paired = rows["baseline"].notna() & rows["delta"].isna()
    zero = int((paired & rows["test"].notna()).sum())
    unmeasured = sorted(set(rows.loc[paired & rows["test"].isna() & delta.is_primary(rows), "task"]))
    said = [f"{zero} row{'s' * (zero > 1)} without delta: the baseline's figure is 0 or missing."] if zero else []
    if unmeasured:
        said.append(f"No Δm where a primary task has no test figure: {', '.join(unmeasured)}.")
    return said


def _listed(values: pd.Series) -> str:
    return ",".join("null" if value == "all" else value for value in dict.fromkeys(printed.settings(values)) if value)


def _key(name: str) -> str:
    """The config key of a column, such as `optimizer.lr` for `lr`."""
    keys = {column: key for key, column in columns.SHOWN.items()}
    return f"hardware.{name}" if name in ("device", "precision") else keys.get(name, name)
