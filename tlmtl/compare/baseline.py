"""`--baseline KEY=VALUE`: each row of the table against the baseline that it agrees with, seed by seed.

Two runs are a pair when they have the same seed and the same data and splits (`data_hash`): then what the seed draws (the
labelled examples, the order of batches) is the same for both, and its chance drops out of the difference.
"""

import numpy as np
import pandas as pd

from tlmtl.compare import filters, keys, names, printed, stats, testset
from tlmtl.errors import ConfigError

TASK = ["dataset", "task"]
COLUMNS = ["difference", "difference_half", "p", "p_holm", "p_least", "pairs", "boot_low", "boot_high"]
PLAN = ["device", "precision", "threads", "data_hash"]  # what else baselines of equal settings may be told apart by
LEVEL = 0.05

Condition = tuple[str, str]


def beside(
    groups: pd.DataFrame,
    rows: pd.DataFrame,
    conditions: list[Condition],
    settings: list[str],
    chosen: list[str] | tuple[str, ...] = (),
    repeats: list[str] | tuple[str, ...] = (),
) -> tuple[pd.DataFrame, list[str]]:
    """`groups` with `COLUMNS` and `is_baseline` (whether it is one), and notes.

    Arguments:
        rows: the finished rows behind the groups, with `metric`, `test`, `val`.
        conditions: settings and values that make a group a baseline.
        settings: names of the columns that tell groups apart.
        chosen: those that validation has chosen, which need not agree.
        repeats: those that are told apart within a group, as seeds are.

    A row's baseline is that of its data set and task which agrees with it in every other setting that baselines differ in.
    Where none or several do, the row has no difference, and a note says so. Raises ConfigError where no group is a baseline.
    """
    groups = groups.assign(**dict.fromkeys(COLUMNS, np.nan), is_baseline=False)
    if groups.empty:
        return groups, []
    is_base = [filters.equals(groups[key], value) for key, value in conditions]
    groups["is_baseline"] = pd.concat(is_base, axis=1).all(axis=1)
    words = " ".join(f"{key}={value}" for key, value in conditions)
    if not groups["is_baseline"].any():
        raise ConfigError(_no_such(groups, conditions, words))
    named = names.of(groups, [*settings, *(name for name in PLAN if name in groups)])
    free = [*TASK, "kind", *chosen, *(key for key, _ in conditions)]
    beside, notes = _match(groups, [name for name in [*settings, *PLAN] if name in groups and name not in free], named)
    pairs, more = _pair(groups, rows, beside, list(repeats), named)
    if pairs.empty:
        return groups, [*notes, *more]
    found = pd.DataFrame({at: vars(stats.paired(part)) for at, part in pairs.groupby("group")["difference"]}).T
    groups.loc[found.index, ["difference", "difference_half", "p", "p_least", "pairs"]] = found[
        ["mean", "half", "p", "least_p", "n"]
    ].to_numpy(dtype=float)
    several = groups["p"].where(groups["pairs"] > 1)  # one pair tests nothing
    groups["p"], groups["p_holm"] = several, stats.holm(several)
    limits, unknown = testset.intervals(pairs)
    groups.loc[limits.index, ["boot_low", "boot_high"]] = limits.to_numpy()
    return groups, [*_legend(groups, pairs, words), *notes, *more, *unknown]


def better(groups: pd.DataFrame, signs: pd.Series) -> pd.Series:
    """+1 where the whole 95 % interval of the difference is better than 0, -1 where it is worse, 0 where it holds 0."""
    low, high = groups["difference"] - groups["difference_half"], groups["difference"] + groups["difference_half"]
    return signs * ((low > 0).astype(int) - (high < 0).astype(int))


def _match(groups: pd.DataFrame, same: list[str], named: pd.Series) -> tuple[pd.Series, list[str]]:
    """The index of each group's baseline, missing where there is none or for a baseline itself; and notes."""
    found = pd.Series(np.nan, index=groups.index)
    alone, unclear = [], []
    for _, part in groups.groupby(TASK, dropna=False, sort=False):
        base, others = part[part["is_baseline"]], part[~part["is_baseline"]]
        by = [name for name in same if base[name].nunique(dropna=False) > 1]
        if base.empty or others.empty:
            alone += list(named[others.index])
            continue
        if not by and len(base) == 1:
            found[others.index] = base.index[0]
            continue
        if not by:
            unclear += list(named[others.index])
            continue
        merged = others[by].reset_index().merge(base[by].reset_index(), on=by, how="left", suffixes=("", "_base"))
        counts = merged.groupby("index")["index_base"].agg(["count", "first"])
        found[counts.index[counts["count"] == 1]] = counts.loc[counts["count"] == 1, "first"]
        alone += [f"{named[at]} ({', '.join(by)})" for at in counts.index[counts["count"] == 0]]
        unclear += list(named[counts.index[counts["count"] > 1]])
    notes = []
    if alone:
        notes.append(f"No baseline agrees with {names.listed(alone)}: no difference there.")
    if unclear:
        notes.append(
            f"Several baselines agree with {names.listed(unclear)}: no difference there. Say which one: give --baseline "
            "again with another setting, choose by --over, or --filter."
        )
    return found, notes


def _pair(
    groups: pd.DataFrame, rows: pd.DataFrame, beside: pd.Series, repeats: list[str], named: pd.Series
) -> tuple[pd.DataFrame, list[str]]:
    """One row for each pair of runs, with `group` (an index of `groups`), `difference` and what `testset` asks for; notes."""
    by = ["group_id", *TASK]
    at = pd.DataFrame({**{name: groups[name] for name in by}, "group": groups.index, "base": beside})
    runs = rows.merge(at, on=by, how="inner")
    on_test = runs.groupby(TASK, dropna=False)["test"].transform("count") > 0
    runs["figure"] = runs["test"].where(on_test, runs["val"])
    kept = [name for name in ("kind", "config_hash", keys.FOLDER) if name in runs]
    runs = runs[
        [*by, "group", "base", "metric", "figure", "seed", *repeats, *kept, *runs.columns.intersection(["data_hash"])]
    ]
    runs = runs[runs["figure"].notna()]
    rest = runs[runs["base"].notna()]
    key = [*(["seed"] if "seed" in runs else []), *repeats]
    notes = []
    twice = runs[runs.duplicated(["group", *key], keep=False) & runs["seed"].notna()]
    if len(twice):
        which = list(dict.fromkeys(named[twice["group"]]))
        notes.append(f"A seed stands more than once in {names.listed(which)}: such rows are no pairs.")
    runs = runs[runs["seed"].notna() & ~runs.duplicated(["group", *key], keep=False)]
    left, right = runs[runs["base"].notna()], runs.drop(columns=["base", *by, "metric"])
    same = left.merge(right, left_on=["base", *key], right_on=["group", *key], suffixes=("", "_base"))
    if "data_hash" in same:
        equal = same["data_hash"].fillna("") == same["data_hash_base"].fillna("")
        other = list(dict.fromkeys(named[same.loc[~equal, "group"]]))
        if other:
            notes.append(
                f"{names.listed(other)} and the baseline were measured on other data or splits (data_hash): those seeds are "
                "no pairs."
            )
        same = same[equal]
    there = set(same["group"])
    none = [group for group in rest["group"].unique() if group not in there]
    if none:
        notes.append(f"No seed of {names.listed(list(named[none]))} is the baseline's too: no difference there.")
    return same.assign(difference=same["figure"] - same["figure_base"]), notes


def _legend(groups: pd.DataFrame, pairs: pd.DataFrame, words: str) -> list[str]:
    """What the columns say, and what so many seeds cannot say."""
    compared = groups[groups["pairs"].notna()]
    fewest, most = int(compared["pairs"].min()), int(compared["pairs"].max())
    seeds = f"{fewest} to {most}" if fewest < most else str(most)
    notes = [
        f"difference: row - baseline ({words}) of the same seed, mean over {seeds} seed{'s' * (most > 1)} ± half a 95 % "
        "t-interval; ↑ better and ↓ worse where the interval leaves out 0."
    ]
    fewer = compared[compared["pairs"] < compared["n"]]
    if len(fewer):
        notes.append(
            f"{len(fewer)} of {len(compared)} differences rest on fewer seeds than n: only shared seeds are pairs."
        )
    if fewest == 1:
        notes.append(
            "A difference of one seed has no interval and no p: nothing says how far seeds differ. Run more seeds."
        )
    tested = int(compared["p"].notna().sum())
    if not tested:
        return notes
    notes.append(
        "p: exact sign-flip test over seeds, in brackets the least that so many seeds can give; p Holm: "
        + (f"for all {tested} comparisons of the table together." if tested > 1 else "the same for one comparison.")
    )
    if stats.least_p(most) * tested >= LEVEL:
        alone = next(n for n in range(2, 99) if stats.least_p(n) < LEVEL)
        needed = next(n for n in range(2, 99) if stats.least_p(n) * tested < LEVEL)
        if stats.least_p(most) >= LEVEL:
            first = (
                f"With {most} seeds no p can fall below {printed.p(stats.least_p(most))}: a large p says nothing here, "
            )
            notes.append(
                f"{first}the interval is what to read. From {max(alone, needed)} seeds on, p Holm can reach .05."
            )
        else:
            notes.append(f"With {most} seeds no p Holm can reach .05; from {needed} seeds on it can.")
    still = compared["difference_half"] == 0
    if still.any():
        notes.append("An interval of ± 0: all seeds differ by the same, which is no certainty.")
    return notes


def _no_such(groups: pd.DataFrame, conditions: list[Condition], words: str) -> str:
    found = []
    for key, _ in conditions:
        values = sorted(printed.settings(groups[key]).unique())
        found.append(f"{key}: {names.listed([value or '(empty)' for value in values], 10)}")
    return f"No row of the table has --baseline {words}. Found in {'; in '.join(found)}."
