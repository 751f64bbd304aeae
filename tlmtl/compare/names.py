"""What groups are called in a figure, a note or a message: by the fewest settings that tell them apart."""

import pandas as pd

from tlmtl.compare import printed

LAST = ("model", "strategy")  # what a reader looks for, kept where it differs


def labels(groups: pd.DataFrame, varying: list[str]) -> list[str]:
    """A short name for each group: the fewest of the `varying` settings that tell the groups apart, strategy first."""
    if not varying:
        return ["all runs"] * len(groups)
    texts = groups[varying].apply(printed.settings)
    kept = list(varying)
    last = [name for name in LAST if name in varying]
    for name in [*(name for name in reversed(varying) if name not in last), *last]:
        fewer = [other for other in kept if other != name]
        if fewer and len(texts.drop_duplicates(fewer)) == len(texts.drop_duplicates(varying)):
            kept = fewer
    return [" · ".join(filter(None, row)) or "default" for row in texts[kept].itertuples(index=False)]


def of(groups: pd.DataFrame, settings: list[str]) -> pd.Series:
    """A name for each of `groups`, by those of `settings` in which they differ; the task too, where there are several."""
    told = [name for name in settings if name != "kind" and groups[name].nunique(dropna=False) > 1]
    own = [name for name in told if name not in ("dataset", "task")]
    found = pd.Series(labels(groups, own), index=groups.index, dtype="str")
    for name in ("task", "dataset"):
        if name in told:
            found = found + " (" + groups[name].astype("str").fillna("") + ")"
    return found


def listed(names: list[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
