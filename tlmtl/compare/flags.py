"""What makes a mean less than it seems: repeats that were not made alike, or not all of them."""

import pandas as pd

from tlmtl.compare import names

BY = ["group_id", "dataset", "task"]
# What runs of one group should agree in, though no setting says so, and why it matters.
ALIKE = {
    "git_sha": "another state of the code",
    "tlmtl": "another version, whose rules of choosing an epoch may differ",
    "torch": "another version of torch",
    "source_hash": "other source parameters",
    "precision": "another precision",
    "threads": "another number of threads: other bits, other times",
    "memory_format": "another memory format",
    "compiled": "compiled and not",
}
MOST = 3  # groups or seeds named in one note


def notes(groups: pd.DataFrame, rows: pd.DataFrame, unfinished: pd.DataFrame, settings: list[str]) -> list[str]:
    """Notes that name the groups: repeats made by different code or on different plans, runs that are missing.

    Arguments:
        groups: those of the table.
        rows: the finished rows behind them, and `unfinished` ones of the same columns.
        settings: names of the columns that tell groups apart.
    """
    if groups.empty:
        return []
    named = names.of(groups, settings).set_axis(pd.MultiIndex.from_frame(groups[BY]))
    rows = rows[rows["group_id"].isin(groups["group_id"])]
    alone = names.of(groups, [name for name in settings if name not in BY])
    return [*_mixed(rows, named), *_missing(groups, rows, unfinished, named, alone)]


def _mixed(rows: pd.DataFrame, named: pd.Series) -> list[str]:
    said = []
    for name, why in ALIKE.items():
        if name not in rows or rows[name].nunique(dropna=False) < 2:
            continue
        counts = rows.groupby(BY, dropna=False)[name].nunique()
        several = [at for at in counts.index[counts > 1] if at in named.index]
        if several:
            values = rows.loc[rows["group_id"] == several[0][0], name].astype("str").fillna("none")
            found = names.listed(sorted(values.unique()))
            groups = names.listed(list(dict.fromkeys(named[at] for at in several)))
            said.append(f"Mixed {name} ({found}) among the repeats of {groups}: {why}.")
    return said


def _missing(
    groups: pd.DataFrame, rows: pd.DataFrame, unfinished: pd.DataFrame, named: pd.Series, alone: pd.Series
) -> list[str]:
    """Rows of one task that rest on fewer seeds than others, and which seeds they lack."""
    said = []
    counts = groups.groupby(["dataset", "task"], dropna=False)["n"]
    fewer = groups[groups["n"] < counts.transform("max")]
    if len(fewer):
        seeds = (
            rows.dropna(subset=["seed"]).groupby(BY, dropna=False)["seed"].agg(set) if "seed" in rows else pd.Series()
        )
        every = rows.groupby(["dataset", "task"], dropna=False)["seed"].agg(set) if "seed" in rows else pd.Series()
        parts = []
        for _, group in fewer.head(MOST).iterrows():
            at = tuple(group[name] for name in BY)
            lacks = sorted(every.get(at[1:], set()) - seeds.get(at, set()), key=str)
            text = f", without seed {names.listed([_number(seed) for seed in lacks])}" if 0 < len(lacks) < 10 else ""
            parts.append(f"{named[at]} (n = {group['n']:.0f}{text})")
        more = f" and {len(fewer) - MOST} more" if len(fewer) > MOST else ""
        most = int(groups["n"].max())
        said.append(f"Unequal n: {'; '.join(parts)}{more}, where others have up to {most}.")
    if groups["group_id"].nunique() > 1:
        own = dict(zip(groups["group_id"], alone, strict=True))
        for status, part in unfinished[unfinished["group_id"].isin(own)].groupby("status", dropna=False):
            runs = part.drop_duplicates("run_id")["group_id"].map(own).value_counts()
            said.append(f"{str(status).capitalize()}: {names.listed([f'{n} of {name}' for name, n in runs.items()])}.")
    return said


def _number(seed: object) -> str:
    return f"{seed:g}" if isinstance(seed, float) else str(seed)
