"""Choosing among groups: by validation over some settings, by order, by number. Nothing here chooses by test unsaid."""

import pandas as pd

from tlmtl.compare import delta, keys, metrics
from tlmtl.errors import ConfigError

TASK = ["dataset", "task"]


def over(groups: pd.DataFrame, names: list[str], settings: list[str]) -> tuple[pd.DataFrame, list[str]]:
    """Of the groups that are equal in all settings but `names`, the one best on validation (by mean); and notes.

    A run of several tasks is one choice: its rows stay together. The best is then that of the largest mean, over primary
    tasks, of the validation figure relative to the largest among the candidates.
    """
    if groups.empty:
        return groups, []
    # Hardware that changes numbers is part of an experiment too, though no setting.
    same = [name for name in [*settings, "device", "precision"] if name in groups and name not in names]
    family = groups.groupby(same, dropna=False).ngroup()  # candidates for one row of the table
    # The tasks of a run have their own rows, and those of further test sets too: one setting for all of them.
    runs = (
        groups.assign(dataset=_own(groups))
        .groupby([s for s in same if s not in ("task", "kind")], dropna=False)
        .ngroup()
    )
    score = _scores(groups, family, runs).dropna()
    if score.empty:
        raise ConfigError("--over chooses by validation, but no run measured its metric there (val/...). Try --metric.")
    chosen = groups.loc[sorted(score.groupby(family).idxmax())]
    sizes = family.loc[score.index].value_counts()
    fewest, most = int(sizes.min()), int(sizes.max())
    some = f"{most} candidate{'s' * (most > 1)}" if fewest == most else f"{fewest} to {most} candidates"
    notes = [f"{', '.join(names)} chosen by validation, never by test: each row from {some}."]
    if groups.loc[score.index, "task"].groupby(runs).nunique().max() > 1:
        notes.append(
            "Tasks of one run share a choice: that of the largest mean over primary tasks of validation relative to the best."
        )
    if most == 1:
        others = [name for name in same if groups[name].nunique(dropna=False) > 1 and name not in TASK]
        notes.append(f"Nothing was left to choose, since the groups also differ in {', '.join(others) or 'nothing'}.")
    missing = len(groups) - len(score)
    if missing:
        notes.append(f"{missing} candidate{'s' * (missing > 1)} without a validation metric could not be chosen.")
    repeats = groups.loc[score.index].groupby(family)["n"].agg(["min", "max"])
    if (repeats["min"] < repeats["max"]).any():
        notes.append("Candidates of one row differ in n: those with few repeats win by luck more often.")
    return chosen.reset_index(drop=True), notes


def _scores(groups: pd.DataFrame, family: pd.Series, runs: pd.Series) -> pd.Series:
    """How good each group's run is on validation, the same for all rows of a run: higher is better, missing where a primary
    task was not measured."""
    value = _validation(groups) * groups["metric"].map(metrics.sign)
    relative = value / value.abs().groupby(family).transform("max").replace(0, 1)
    primary = delta.is_primary(groups) & ~groups["task"].astype("str").str.startswith("fused:")
    primary &= groups["dataset"] == _own(groups)
    alone = ~primary.groupby([runs, groups["group_id"]]).transform("any")  # rows of auxiliary tasks by themselves
    counted = relative.where(primary | alone)
    by = [runs, groups["group_id"]]
    due = (primary | alone).groupby(by).transform("sum")
    return counted.groupby(by).transform("mean").where(counted.groupby(by).transform("count") == due)


def _own(groups: pd.DataFrame) -> pd.Series:
    """The data set that a run was trained on, also in rows of further test sets (`digits->mnist5k`)."""
    return groups["dataset"].astype("str").str.split("->").str[0]


def _validation(groups: pd.DataFrame) -> pd.Series:
    """Each group's figure on validation. Rows of further test sets (`digits->mnist5k`) take that of their own run."""
    own = [groups["group_id"], _own(groups), groups["task"]]
    return groups["val"].fillna(groups["val"].groupby(own, dropna=False).transform("first"))


def sort(groups: pd.DataFrame, key: str, known: list[str]) -> pd.DataFrame:
    """`groups` by a column, ascending, or descending for `-key`; missing values last.

    Metrics are sorted within each task, as those of two tasks can't be compared.
    """
    name = keys.resolve(key.removeprefix("-"), [one for one in known if one in groups], "--sort")
    within = TASK if name in ("test", "val", "difference") or keys.is_metric(name) else []
    return groups.sort_values(
        [*within, name], ascending=[*(True for _ in within), not key.startswith("-")], kind="stable", ignore_index=True
    )


def top(groups: pd.DataFrame, number: int, key: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """The first `number` groups of each task, sorted by `key` before, else the best on validation; and notes."""
    if key is None:
        score = groups["val"] * groups["metric"].map(metrics.sign)
        groups = groups.assign(score=score).sort_values([*TASK, "score"], ascending=[True, True, False], kind="stable")
        groups = groups.drop(columns="score")
    first = groups.groupby(TASK, dropna=False, sort=False).head(number).reset_index(drop=True)
    notes = [f"{len(first)} of {len(groups)} rows: the first {number} of each task, by {key or 'validation'}."]
    if key and key.removeprefix("-").split("/")[0] == "test":
        notes.append("They were picked by their test figures, which are too good then; --over picks by validation.")
    return first, notes if len(first) < len(groups) else []
