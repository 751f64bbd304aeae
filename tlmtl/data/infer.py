"""What a column of text is as a task: its kind, found from its values or stated, and its labels as numbers. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from tlmtl.errors import ConfigError

SEPARATORS = ";|,"
FEW = 20  # whole numbers of at most so many values are classes
COMMA = r"[-+]?\d+(,\d+)?"  # a number, perhaps with a decimal comma
KINDS = ("classification", "multilabel", "regression")


@dataclass
class Column:
    """Labels of one column: as in `Examples.columns`, with the names of its classes (None for a regression)."""

    kind: str
    values: np.ndarray
    classes: list[str] | None
    notes: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        if self.classes is None:
            there = self.values[np.isfinite(self.values)]
            what = f"values from {there.min():g} to {there.max():g}" if len(there) else "no values"
        else:
            shown = ", ".join(self.classes[:6]) + (", ..." if len(self.classes) > 6 else "")
            what = f"{len(self.classes)} {'labels' if self.kind == 'multilabel' else 'classes'} ({shown})"
        missing = int((self.values < 0).sum()) if self.values.dtype == np.int64 else int(_gone(self.values).sum())
        return f"{name}: {self.kind}, {what}" + (f", {missing} missing" if missing else "")


def kind_of(cells: pd.Series) -> str | None:
    """The kind that the values of a column of text suggest; None for what looks like an identifier or a remark.

    Text is a classification; with a separator inside, multilabel; whole numbers of at most 20 values are a
    classification (one of its own for each row: an identifier), other numbers a regression. "mixed" is what cannot be told:
    numbers and words, decimal commas.
    """
    there = cells[cells != ""]
    if there.empty:
        return None
    numbers = pd.to_numeric(there, errors="coerce")
    if numbers.notna().all():
        whole = bool((np.isfinite(numbers) & (numbers == numbers.round())).all())
        if whole and numbers.nunique() == len(there) > FEW:
            return None  # a number for each row
        return "classification" if whole and numbers.nunique() <= FEW else "regression"
    if there.str.fullmatch(COMMA).all():
        return "mixed"
    if _separator(there) is not None:
        return "multilabel"
    if numbers.notna().mean() >= 0.5:
        return "mixed"
    return "classification" if there.nunique() <= max(10, len(there) // 3) else None


def encode(cells: pd.Series, kind: str, name: str, separator: str | None = None) -> Column:
    """A column of text as labels of a task of that kind.

    Arguments:
        cells: text (N,), "" for missing; its index is the row's number in the file.
        separator: between the labels of a multilabel cell; found when None.

    Raises ConfigError for a cell that is no number in a regression.
    """
    if kind == "regression":
        return _regression(cells, name)
    if kind == "multilabel":
        return _multilabel(cells, separator or _separator(cells[cells != ""]) or SEPARATORS[0])
    numbers = pd.to_numeric(cells.where(cells != ""), errors="coerce")
    notes = []
    if (numbers.notna() | (cells == "")).all() and _exact(numbers.dropna()):
        others = numbers[(numbers >= 0)].nunique()
        gone = (cells == "").to_numpy()
        if (minus := (numbers == -1).to_numpy()).any() and (numbers < -1).sum() == 0 and others > 1:
            gone = gone | minus
            notes.append(f"{name}: -1 is taken for a missing label ({int(minus.sum())} rows).")
        values = numbers.fillna(0).astype(np.int64).to_numpy()
        classes, codes = np.unique(values[~gone], return_inverse=True)
        names = [str(value) for value in classes]
    else:
        gone = (cells == "").to_numpy()
        classes, codes = np.unique(cells[~gone].to_numpy(dtype=str), return_inverse=True)
        names = [str(value) for value in classes]
    labels = np.full(len(cells), -1, dtype=np.int64)
    labels[~gone] = codes
    return Column("classification", labels, names, notes)


def mixed(cells: pd.Series, name: str) -> ConfigError:
    """The message for a column that holds numbers and words, or numbers with a decimal comma."""
    numbers = pd.to_numeric(cells, errors="coerce")
    words = cells[(cells != "") & numbers.isna()]
    shown = ", ".join(f"'{cell}' in row {row}" for row, cell in words.head(3).items())
    if words.str.fullmatch(COMMA).all():
        return ConfigError(
            f"The column '{name}' looks like numbers with a decimal comma: {shown}. Write them with a point, or, if they are "
            f"labels with a comma between, say so: +dataset.tasks.{name}.kind=multilabel."
        )
    return ConfigError(
        f"The column '{name}' holds {int(numbers.notna().sum())} numbers and {len(words)} other value(s): {shown}. Mend or "
        f"empty those cells, or say that all are names of classes: +dataset.tasks.{name}.kind=classification."
    )


def _regression(cells: pd.Series, name: str) -> Column:
    numbers = pd.to_numeric(cells.where(cells != ""), errors="coerce")
    wrong = cells[(cells != "") & ~np.isfinite(numbers)]
    if len(wrong):
        shown = ", ".join(f"'{cell}' in row {row}" for row, cell in wrong.head(3).items())
        raise ConfigError(f"'{name}' is a regression, but {len(wrong)} of its cells are no numbers: {shown}.")
    return Column("regression", numbers.to_numpy(dtype=np.float64, na_value=np.nan), None)


def _multilabel(cells: pd.Series, separator: str) -> Column:
    sets = [[part.strip() for part in cell.split(separator) if part.strip()] for cell in cells]
    names = sorted({part for parts in sets for part in parts})
    number = {name: i for i, name in enumerate(names)}
    values = np.zeros((len(cells), len(names)), dtype=np.float32)
    for row, parts in enumerate(sets):
        values[row, [number[part] for part in parts]] = 1
    values[(cells == "").to_numpy()] = np.nan
    return Column("multilabel", values, names)


def _separator(there: Sequence[str] | pd.Series) -> str | None:
    """What separates the labels in these cells: a character that stands in some of them, between parts that come again."""
    cells = list(there)
    for separator in SEPARATORS:
        split = [[part.strip() for part in cell.split(separator)] for cell in cells]
        parts = [part for one in split for part in one]
        if len(parts) <= len(cells) or len(set(parts)) > max(2, len(parts) // 3):
            continue
        if separator == ",":  # stands in names, too ("Paris, France"): parts of a list also come in other cells
            lists = {tuple(one) for one in split}
            if any(sum(part in other for other in lists) < 2 for one in lists if len(one) > 1 for part in one):
                continue
        return separator
    return None


def _exact(numbers: pd.Series) -> bool:
    """Whether all are whole numbers that a float holds exactly; longer ones are names, digit by digit."""
    return bool((np.isfinite(numbers) & (numbers.abs() < 2**53) & (numbers == numbers.round())).all())


def _gone(values: np.ndarray) -> np.ndarray:
    return np.isnan(values).any(tuple(range(1, values.ndim)))
