"""Learning curves: `history.csv` of the runs of a group, as means and deviations over seeds."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from tlmtl.report.folders import Folders

POINTS = 80  # of a curve, at most


@dataclass(frozen=True)
class Curve:
    """One group's figure as training went."""

    label: str
    points: pd.DataFrame  # step, mean, sd (missing where one seed has a value), n
    unread: int = 0  # runs of the group whose history is not there


def of(
    rows: pd.DataFrame, labels: dict[str, str], folders: Folders, name: str, tell: Callable[[], object] = lambda: None
) -> list[Curve]:
    """The curves of `name` on validation for the groups in `labels`, in that order; without those that have no history.

    Arguments:
        rows: finished rows of one task: run_id, config_hash, group_id, task.
        labels: by group_id, what the curve is called.
    """
    found = []
    for group, part in rows[rows["group_id"].isin(labels)].groupby("group_id", sort=False):
        seeds = []
        for _, row in part.iterrows():
            run = folders.of_row(row)
            history = run.history if run else None
            if history is not None:
                mine = (history["task"] == row["task"]) & (history["split"] == "val") & (history["name"] == name)
                seeds.append(history.loc[mine, ["step", "value"]].dropna())
            tell()
        if seeds and len(every := pd.concat(seeds)):
            by_step = every.groupby("step")["value"].agg(["mean", "std", "count"]).reset_index()
            by_step.columns = pd.Index(["step", "mean", "sd", "n"])
            # where some seeds have stopped, a mean over the others would be of other runs
            by_step = by_step[by_step["n"] >= max(1, by_step["n"].max() / 2)]
            found.append(Curve(labels[str(group)], thinned(by_step), len(part) - len(seeds)))
    order = list(labels.values())
    return sorted(found, key=lambda curve: order.index(curve.label))


def thinned(points: pd.DataFrame) -> pd.DataFrame:
    """At most `POINTS` rows, evenly; the first and the last are always among them."""
    if len(points) <= POINTS:
        return points
    at = [round(i * (len(points) - 1) / (POINTS - 1)) for i in range(POINTS)]
    return points.iloc[at]
