"""From rows to groups: repeats of one experiment become a mean and a standard deviation."""

from dataclasses import dataclass, field

import pandas as pd

from tlmtl import columns
from tlmtl.compare import baseline as beside
from tlmtl.compare import choice, costs, counted, delta, flags, foreign, keys, metrics, transfer
from tlmtl.errors import ConfigError

# What one experiment is told from another by. Never the seed: rows that differ in it alone are repeats.
SETTINGS = ["dataset", "task", "kind", *(name for name in columns.SETTINGS if name not in ("seed", "overrides"))]
# What a group of several runs has no one value of.
PER_RUN = ["run_id", "config_hash", "status", "error", "seed", "baseline", "whole", "lacks", keys.FOLDER]
PART = ["boot_low", "boot_high", "p_least", "is_baseline"]  # of what another column shows


@dataclass(frozen=True)
class Summary:
    """One row per experiment and task in `groups`, and what a reader should know beside it.

    `groups` holds the settings, `metric` (a name), `n`, `test`, `val`, each metric and each cost as a mean over
    repeats; and for `test`, `val` and each metric `x` its standard deviation `x_sd` (ddof 1; missing where n is 1).
    Groups of multi-task runs also have gains on single-task runs, in percent (`delta.py`): `delta` of the task, the mean
    over the `delta_n` seeds that have a baseline, with half its 95 % t-interval `delta_half`, and `delta_m` of the run with
    its standard deviation `delta_m_sd`. They are missing where there is nothing to compare.
    """

    groups: pd.DataFrame
    rows: pd.DataFrame  # the finished rows behind the groups, with `metric`, `test`, `val`, `delta` and `delta_m`
    settings: list[str]  # names of setting columns, those from `overrides` among them
    over: list[str] = field(default_factory=list)  # settings that validation has chosen
    notes: list[str] = field(default_factory=list)
    metric: str | None = None  # the one that was asked for, of all tasks

    def varying(self) -> list[str]:
        """The settings to show: those that differ between groups, and those that were chosen."""
        shown = [name for name in self.settings if name in self.over or _differs(self.groups, name)]
        if "kind" in shown and self.groups.groupby(choice.TASK, dropna=False)["kind"].nunique().max() <= 1:
            shown.remove("kind")  # follows from the task
        for more in ([name for name in columns.PLAN if name != "fused_with"], ["data_hash"], ["group_id"]):
            if self.groups.duplicated(["task", *shown]).any():  # else two rows of the table would look alike
                shown += [name for name in more if name in self.groups and _differs(self.groups, name)]
        if not shown and "strategy" in self.settings:
            shown = ["strategy"]
        return shown

    def constants(self) -> list[str]:
        """The settings that all groups agree in, empty ones aside."""
        varying = self.varying()
        same = [name for name in self.settings if name not in varying and not _differs(self.groups, name)]
        return [name for name in same if self.groups[name].notna().any()]

    def same_metric(self) -> bool:
        return self.groups["metric"].nunique() <= 1

    def known(self) -> list[str]:
        """What `--columns` and `--sort` can name."""
        hidden = [*PER_RUN, *PART]
        names = [name for name in map(str, self.groups) if not name.endswith(("_sd", "_half")) and name not in hidden]
        return [*names, "boot"] if "boot_low" in self.groups else names


def summarise(
    rows: pd.DataFrame,
    metric: str | None = None,
    over: list[str] | tuple[str, ...] = (),
    repeats: list[str] | tuple[str, ...] = (),
    only: pd.Index | None = None,
    baseline: list[tuple[str, str]] | tuple[tuple[str, str], ...] = (),
) -> Summary:
    """Groups of repeats in `rows` (columns of `results.csv`), with means and standard deviations.

    `metric`: a name such as `accuracy`; by default each task's first. `over`: settings of which validation chooses the
    value. `repeats`: settings whose values are repeats, as those of the seed always are (`dataset.fold`). `only`: the index
    of the rows to show, such as what a filter kept; the others serve as baselines of multi-task runs and nothing else.
    `baseline`: settings and values of the rows that each other one is compared with (`baseline.beside` says by what columns).
    Gains are made of single runs before anything is chosen. The order of `rows` does not matter. Raises ConfigError for an
    unknown metric or key.
    """
    rows, overridden = keys.expand(keys.clean(rows))
    rows, infinite = metrics.finite(rows)
    settings = [name for name in [*SETTINGS, *overridden] if name in rows]
    settings += [name for name in foreign.settings(rows) if name not in settings]
    over = [_chosen(key, settings) for key in over]
    rows = rows.assign(shown=True if only is None else rows.index.isin(only))
    rows = rows.sort_values(["run_id", "task"], kind="stable", ignore_index=True)  # means equal to the bit
    finished = rows[rows["status"] == "done"]
    compared, _ = metrics.choose(finished, metric)
    gains = delta.of(compared, finished)
    rows, notes = counted.newest(rows[rows["shown"]].drop(columns="shown"))
    again = [_repeated(key, settings) for key in repeats]
    if again:
        rows, more = counted.together(rows, again, settings)
        settings = [name for name in settings if name not in again]
    else:
        rows, more = counted.apart(rows)
    notes += [*more, *infinite]
    done = rows["status"] == "done"
    notes += counted.unfinished(rows[~done])
    finished, more = metrics.choose(rows[done], metric)
    gains = gains[compared["metric"].reindex(gains.index) == finished["metric"].reindex(gains.index)]
    finished = finished.join(gains)
    groups = _aggregate(finished).sort_values(settings, kind="stable", ignore_index=True)
    notes += more
    if over:
        groups, more = choice.over(groups, over, settings)
        notes += more
    notes += flags.notes(groups, finished, rows[~done], settings)
    groups, marks = costs.mark(groups)
    if baseline:
        conditions = [(_compared(key, [*settings, *columns.PLAN]), value) for key, value in baseline]
        groups, more = beside.beside(groups, finished, conditions, settings, over, again)
        notes += more
    notes += [*marks, *transfer.notes(groups, finished, settings, metric)]
    return Summary(groups, finished, settings, over, notes, metric)


def _differs(groups: pd.DataFrame, name: str) -> bool:
    return groups[name].nunique(dropna=False) > 1


def _chosen(key: str, settings: list[str]) -> str:
    name = keys.resolve(key, [*settings, "seed"], "--over")
    if name in ("seed", "dataset", "task", "kind"):
        raise ConfigError(f"--over chooses a setting by validation; {name} is not one to choose. Try --over lr.")
    return name


def _compared(key: str, known: list[str]) -> str:
    name = keys.resolve(key, [*known, "seed"], "--baseline")
    if name in ("seed", "dataset", "task", "kind"):
        raise ConfigError(
            f"--baseline takes a setting, such as strategy=linear_probe; {name} is not one. Pairs share it."
        )
    return name


def _repeated(key: str, settings: list[str]) -> str:
    name = keys.resolve(key, [*settings, "seed"], "--repeats")
    if name in ("seed", "dataset", "task", "kind"):
        raise ConfigError(f"--repeats takes a setting such as dataset.fold, not {name} (seeds are repeats anyway).")
    return name


def _aggregate(rows: pd.DataFrame) -> pd.DataFrame:
    by = ["group_id", "dataset", "task"]
    scores = ["test", "val", *(name for name in map(str, rows) if keys.is_metric(name)), *delta.COLUMNS]
    costs = [name for name in columns.COSTS if name in rows]
    repeats = rows.groupby(by, dropna=False)
    counts = repeats[["test", "val"]].count()
    n = counts["test"].where(counts["test"] > 0, counts["val"]).rename("n")
    deviations = repeats[scores].std(ddof=1).add_suffix("_sd")
    numbers = pd.concat([n, repeats[scores].mean(), deviations, repeats[costs].mean()], axis=1)
    pairs = repeats["delta"].count()
    half = transfer.half_width(deviations["delta_sd"], pairs) if (pairs > 1).any() else float("nan")
    numbers = numbers.assign(delta_n=pairs, delta_half=half)
    first = rows.drop(columns=[*scores, *costs]).drop_duplicates(by)
    return first.merge(numbers.reset_index(), on=by, how="left")
