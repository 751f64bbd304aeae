"""`--front`: which learned weightings lie beyond the front of plain static sums of the task losses, and which do not.

A static sum costs nothing extra, and sweeping its weights draws a front. Kurin et al. 2022 ("In defense of the unitary
scalarization") and Xin et al. 2022 ("Do current multi-task optimization methods in deep learning even help?") found that
most learned weightings and gradient aggregators do not lie beyond it. No table is laid out here: `front_table.py`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from tlmtl.compare import counted, delta, transfer
from tlmtl.compare.groups import Summary
from tlmtl.compare.metrics import sign
from tlmtl.compare.weights import label, shares
from tlmtl.errors import ConfigError

STATIC = ["sum", "static"]
# Runs of one front agree in these, and in all settings of their sharing: they differ in weighting and seed alone.
SAME = ["baseline_id", "data_hash", "source_hash", "dataset", "tasks", "sharing", "device", "precision"]
BEYOND, INSIDE, UNCLEAR = "beyond", "not beyond", "unclear"


@dataclass(frozen=True)
class Front:
    """One row for each weighting in `points`, those of one front together, static ones first.

    `points` holds the settings of its group, `family` (a number for each front), `static`, `weights` (text), `n` (runs),
    for each task `t` of `tasks` the test figure `t` and its standard deviation `t_sd` (missing where n is 1 or where the
    front lacks the task), and `margin`, `margin_half`, `margin_n` (see `margins`), `verdict`. Of static points the verdict
    is `front` or `dominated`: whether another static one is at least as good in each task, and better in one, by means.
    """

    points: pd.DataFrame
    tasks: dict[str, str]  # primary tasks and the metric of each
    summary: Summary  # of the multi-task groups alone
    notes: list[str]


def find(summary: Summary) -> Front:
    """The fronts in `summary`, of runs in which several primary tasks share parameters. Auxiliary tasks do not count.

    Raises ConfigError where there is no such run, or none with static weights.
    """
    rows = summary.rows[delta.is_shared(summary.rows) & delta.is_primary(summary.rows)]
    same = [name for name in rows if name in SAME or str(name).startswith("sharing.")]
    by_run = rows.assign(data_hash=counted.of_run(rows, "data_hash")) if "data_hash" in rows else rows
    rows = rows.assign(family=by_run.groupby(same, dropna=False, sort=False).ngroup())
    rows = rows[rows.groupby("family")["task"].transform("nunique") > 1]
    if rows.empty:
        raise ConfigError(
            "--front expected runs in which several tasks share a model (two tasks or more, sharing other than none), "
            "found none. Make some: tlmtl train -m +experiment=front."
        )
    if not rows["weighting"].isin(STATIC).any():
        raise ConfigError(
            f"--front expected runs with weighting=sum or weighting=static, found weighting="
            f"{', '.join(sorted(rows['weighting'].dropna().unique()))}. Make some: tlmtl train -m +experiment=front."
        )
    first = rows.drop_duplicates("task")
    tasks = dict(zip(map(str, first["task"]), map(str, first["metric"]), strict=True))
    runs = _wide(rows, list(tasks))
    whole = runs[list(tasks)].notna().eq(runs[list(tasks)].notna().groupby(runs["family"]).transform("any")).all(axis=1)
    notes = (
        [f"{int((~whole).sum())} of {len(runs)} runs lack a task's figure and were left out."]
        if not whole.all()
        else []
    )
    runs = margins(runs[whole], tasks)
    points = _points(runs, summary.groups, tasks)
    chosen = summary.groups[summary.groups["group_id"].isin(points["group_id"])].reset_index(drop=True)
    chosen = chosen[chosen["task"].isin(tasks)]
    gains = transfer.notes(summary.groups, summary.rows, summary.settings, summary.metric)  # of the other table
    others = [note for note in summary.notes if note not in gains]
    return Front(points, tasks, Summary(chosen, rows, summary.settings), [*_said(points, runs), *notes, *others])


def margin(point: np.ndarray, static: np.ndarray) -> float:
    """How far `point` lies beyond the convex hull of `static`, relative to the best static figure of each task.

    Arguments:
        point: (K,) figures, higher is better.
        static: (S, K) figures of static sums, S at least 1.

    Returns -s, with s the largest number for which some mixture of the static points is better than `point` by
    s * |best static figure| in every task (a linear programme). Positive: no mixture is as good in every task. NaN
    where the best static figure of a task is 0, which has no relative size.
    """
    from scipy.optimize import linprog

    scale = np.abs(static.max(axis=0))
    if not (scale > 0).all():
        return float("nan")
    # variables: a share of each static point, and s; linprog minimises
    found = linprog(
        c=[*np.zeros(len(static)), -1.0],
        A_ub=np.column_stack([-(static / scale).T, np.ones(len(scale))]),
        b_ub=-point / scale,
        A_eq=[[*np.ones(len(static)), 0.0]],
        b_eq=[1.0],
        bounds=[(0, None)] * len(static) + [(None, None)],
    )
    return float(found.fun)


def margins(runs: pd.DataFrame, tasks: dict[str, str]) -> pd.DataFrame:
    """`runs` with the `margin` of each run that isn't static, in percent, against the static runs of its front and seed."""
    signs = np.array([sign(metric) for metric in tasks.values()])
    found = pd.Series(np.nan, index=runs.index)
    for _, part in runs.groupby(["family", "seed"], dropna=False):
        measured = part[list(tasks)].notna().any().to_numpy()
        figures = (part[list(tasks)].to_numpy() * signs)[:, measured]
        static = part["weighting"].isin(STATIC).to_numpy()
        if static.any():
            found[part.index[~static]] = np.array([100 * margin(each, figures[static]) for each in figures[~static]])
    return runs.assign(margin=found)


def _wide(rows: pd.DataFrame, tasks: list[str]) -> pd.DataFrame:
    """One row for each run and test set, with a column of test figures for each task."""
    by = ["family", "run_id"]
    figures = rows.pivot(index=by, columns="task", values="test").reindex(columns=tasks).reset_index()
    return rows.drop_duplicates(by)[[*by, "group_id", "dataset", "seed", "weighting"]].merge(figures, on=by)


def _points(runs: pd.DataFrame, groups: pd.DataFrame, tasks: dict[str, str]) -> pd.DataFrame:
    same = ["group_id", "dataset"]  # rows of a run on further test sets have the run's group
    by = runs.groupby(["family", *same], sort=False)
    names = list(tasks)
    pairs, sd = by["margin"].count(), by["margin"].std(ddof=1)
    found = by[names].mean().join(by[names].std(ddof=1).add_suffix("_sd"))
    found = found.assign(n=by.size(), margin=by["margin"].mean(), margin_n=pairs)
    found["margin_half"] = transfer.half_width(sd, pairs)
    settings = groups.drop_duplicates(same).drop(columns=["n", "task", "kind", "primary", "metric"], errors="ignore")
    settings = settings[[name for name in settings if name not in found]]
    points = found.reset_index().merge(settings, on=same, how="left")
    points["static"] = points["weighting"].isin(STATIC)
    points["weights"] = points.apply(label, axis=1)
    points["share"] = points.apply(shares, axis=1).str[0].where(points["static"])
    points["verdict"] = _verdicts(points, tasks)
    order = ["family", "static", "share", "margin"]
    points = points.sort_values(order, ascending=[True, False, True, False], kind="stable", ignore_index=True)
    return points.drop(columns="share")


def _verdicts(points: pd.DataFrame, tasks: dict[str, str]) -> pd.Series:
    low, high = points["margin"] - points["margin_half"], points["margin"] + points["margin_half"]
    verdict = pd.Series(UNCLEAR, index=points.index, dtype="str")
    verdict = verdict.mask(low > 0, BEYOND).mask(high <= 0, INSIDE).mask(points["margin"].isna(), "no margin")
    for _, part in points[points["static"]].groupby("family"):
        figures = part[list(tasks)].dropna(axis=1, how="all")
        figures = figures * [sign(tasks[str(task)]) for task in figures]
        verdict[part.index] = np.where(on_front(figures.to_numpy()), "front", "dominated")
    return verdict


def on_front(figures: np.ndarray) -> np.ndarray:
    """bool (S,): which of the points (S, K), higher is better, no other one dominates."""
    no_worse = (figures[:, None] >= figures[None]).all(axis=2)  # (S, S): the first is no worse than the second
    better = (figures[:, None] > figures[None]).any(axis=2)
    dominated: np.ndarray = np.any(no_worse & better, axis=0)
    return ~dominated


def _said(points: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    learned, static = points[~points["static"]], points[points["static"]]
    notes = [
        "Margin: how far a weighting lies beyond what mixtures of static sums of its seed reach, in % of the best static "
        "figure of each task; mean ± half a 95 % t-interval. Below 0 a mixture is at least as good in every task."
    ]
    if learned.empty:
        notes[0] = (
            "Only static sums here. To see what learned weightings add: tlmtl train -m +experiment=front_learned."
        )
        return notes
    counts = learned["verdict"].value_counts()
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (BEYOND, INSIDE, UNCLEAR) if verdict in counts)
    notes.append(
        f"Of {len(learned)} learned weighting{'s' * (len(learned) > 1)}: {said or 'none could be told'}. Kurin et al. 2022 "
        "and Xin et al. 2022 found most not beyond."
    )
    notes.append(
        "The static figures are noisy draws on test, too: the best of several flatters the front, and the verdicts are not "
        "corrected for several weightings."
    )
    fewest = int(static.groupby("family").size().min())
    if fewest < 3:
        notes.append(
            f"A front of {fewest} static point{'s' * (fewest > 1)} says little: tlmtl train -m +experiment=front."
        )
    alone = int(runs.loc[~runs["weighting"].isin(STATIC), "margin"].isna().sum())
    if alone:
        notes.append(f"{alone} run{'s' * (alone > 1)} without a margin: no static run of the same seed and data.")
    if (learned["margin_n"] == 1).any():
        notes.append("A margin from one seed has no interval: unclear. Run more seeds.")
    return notes
