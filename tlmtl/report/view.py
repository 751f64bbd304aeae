"""What the page shows of a summary: names and looks of its groups, tasks as panels, which group is best on validation."""

from dataclasses import dataclass

import pandas as pd

from tlmtl.compare import choice, foreign, metrics, names
from tlmtl.compare.groups import Summary

LABELS = "labels_per_class"
DRAWN = 12  # groups in a chart of lines
FURTHER = "->"  # in the data set of a row on a further test set


@dataclass(frozen=True)
class Panel:
    """One task on one data set."""

    name: str  # for files and anchors
    title: str  # "" where there is but one
    task: str
    dataset: str
    metric: str
    split: str  # test, or val where nothing was tested
    groups: pd.DataFrame  # best on validation first; with `label`, `series`, `series_label` and `best`
    rows: pd.DataFrame  # the finished runs behind them
    by_labels: bool = False  # whether labels per class vary: the best is then told for each number of them

    def titled(self, what: str) -> str:
        """`what`, with the task before it where the page has several."""
        return f"{self.title}: {what}" if self.title else what

    @property
    def sign(self) -> int:
        return metrics.sign(self.metric)

    @property
    def further(self) -> bool:
        return FURTHER in self.dataset

    @property
    def best(self) -> pd.Series | None:
        """The group that is best on validation, of any number of labels; None where validation measured nothing."""
        return self.groups.iloc[0] if self.groups["score"].notna().any() else None

    def first(self, number: int = DRAWN) -> pd.DataFrame:
        return self.groups.head(number)

    def left_out(self, number: int = DRAWN) -> str:
        """What to say where not all groups are drawn."""
        total, measured = len(self.groups), self.groups["score"].notna().any()
        first = f"The {number} best by validation" if measured else f"The first {number}"
        return f"{first} of {total:,} are drawn." if total > number else ""


def panels(summary: Summary) -> list[Panel]:
    """The tasks of `summary`, each with its groups; those of the data themselves before further test sets."""
    groups = summary.groups
    if groups.empty:
        return []
    varying = [name for name in summary.varying() if name not in (*choice.TASK, "kind")]
    varying = varying or ["strategy"] * ("strategy" in groups)  # else nothing would have a name
    lines = [name for name in varying if name != LABELS]
    groups = groups.assign(label=names.labels(groups, varying), series_label=names.labels(groups, lines or varying))
    number = {label: at for at, label in enumerate(dict.fromkeys(groups["series_label"]))}
    score = validation(groups) * groups["metric"].map(metrics.sign)
    groups = groups.assign(series=groups["series_label"].map(number), score=score, best=False)
    by_labels = LABELS in varying and pd.api.types.is_numeric_dtype(groups[LABELS])
    several, many = groups["dataset"].nunique() > 1, groups["task"].nunique() > 1
    found = []
    for (dataset, task), part in groups.groupby(choice.TASK, dropna=False, sort=False):
        part = part.sort_values("score", ascending=False, kind="stable", na_position="last")
        part["best"] = (len(part) > 1) & part["score"].notna() & ~part.duplicated(LABELS if by_labels else choice.TASK)
        rows = summary.rows[_same(summary.rows["dataset"], dataset) & _same(summary.rows["task"], task)]
        dataset, task = _word(dataset), _word(task)
        found.append(
            Panel(
                name=_file_name(f"{dataset}_{task}" if several else task) or "all",
                title=" · ".join(filter(None, [dataset if several else "", task if many else ""])),
                task=task,
                dataset=dataset,
                metric=str(part["metric"].iloc[0]),
                split="test" if part["test"].notna().any() else "val",
                groups=part,
                rows=rows,
                by_labels=by_labels and part[LABELS].nunique(dropna=False) > 1,
            )
        )
    return sorted(found, key=lambda panel: panel.further)


def validation(groups: pd.DataFrame) -> pd.Series:
    """Each group's figure on validation. Rows of further test sets (`digits->mnist5k`) take that of their own run."""
    own = [groups["group_id"], groups["dataset"].str.split(FURTHER).str[0], groups["task"]]
    return groups["val"].fillna(groups["val"].groupby(own, dropna=False).transform("first"))


def _same(cells: pd.Series, value: object) -> pd.Series:
    return cells.isna() if pd.isna(value) else cells == value  # type: ignore[call-overload]


def _word(value: object) -> str:
    return "" if pd.isna(value) or value == foreign.UNNAMED else str(value)  # type: ignore[call-overload]


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in text).strip("_")[:60]
