"""Which rows are not beaten in both figure and time: the mark ◆."""

import numpy as np
import pandas as pd

from tlmtl.compare import metrics, stats

# Rows that are alternatives: the same task, with the same labels, timed on the same plan.
SAME = ["dataset", "task", "labels_per_class", "label_fraction", "device", "threads"]
TIME = ["train_seconds", "features_seconds"]
MARK = "◆"
FEWEST = 3  # of two rows, everybody sees which is better and which is cheaper


def mark(groups: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """`groups` with `pareto`, and a note on it. True where no other row of the same task and labels is as good on validation
    (on test where validation was not measured) and as fast to train, and better in one of the two.

    Validation, because a mark is a choice, and none is made by test. Time is that of the run itself, features included; what
    its source took to train is not, since many runs share it. No row is marked among fewer than three, or where all cost alike.
    """
    times = [name for name in TIME if name in groups]
    marked = pd.Series(False, index=groups.index)
    if not times or groups.empty:
        return groups.assign(pareto=marked), []
    # what no clock resolves is no difference: rows are told apart by three digits
    seconds = groups[times].sum(axis=1, min_count=1).map(lambda value: float(f"{value:.3g}"))
    by_test = False
    for _, part in groups.groupby([name for name in SAME if name in groups], dropna=False):
        if len(part) < FEWEST or seconds[part.index].nunique() < 2:
            continue
        split = "val" if part["val"].notna().all() else "test"
        by_test |= split == "test"
        quality = part[split] * part["metric"].map(metrics.sign).astype(float)
        marked[part.index] = stats.pareto(quality, seconds[part.index])
    if not marked.any():
        return groups.assign(pareto=marked), []
    figure = "the figure on validation (on test where there is none)" if by_test else "the figure on validation"
    return groups.assign(pareto=marked), [f"{MARK} pareto: no other row is as good by {figure} and as fast to train."]


def unmarked(notes: list[str]) -> list[str]:
    """`notes` without the one on the mark, for a table that does not show it."""
    return [note for note in notes if not note.startswith(MARK)]


def cells(groups: pd.DataFrame) -> list[str]:
    return [MARK if one else "" for one in np.asarray(groups["pareto"], dtype=bool)]
