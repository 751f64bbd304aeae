"""`--filter 'KEY OP VALUE'`: parsed into three strings and compared, never evaluated."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tlmtl.compare import keys, printed
from tlmtl.errors import ConfigError

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt,
}  # fmt: skip
SYMBOL = re.compile(r"\s*([^\s=!<>~]+)\s*(==|!=|<=|>=|<|>|~)(?![=<>~])\s*(.*?)\s*", re.DOTALL)
WORD = re.compile(r"\s*([^\s=!<>~]+)\s+(in)\s+(.*?)\s*", re.DOTALL)
FORM = "KEY OP VALUE, with OP one of == != < <= > >= ~ (contains) in (a,b,c), such as 'strategy == linear_probe'"


@dataclass(frozen=True)
class Filter:
    key: str
    op: str
    value: str


def parse(text: str, flag: str = "--filter") -> Filter:
    """Raises ConfigError when `text`, given to `flag`, isn't `KEY OP VALUE`."""
    match = SYMBOL.fullmatch(text) or WORD.fullmatch(text)
    if match is None:
        raise ConfigError(f"Expected {flag} to be {FORM}; found '{text}'.")
    key, op, value = match.groups()
    return Filter(key, op, _unquoted(value))


def apply(rows: pd.DataFrame, filters: list[Filter]) -> tuple[pd.DataFrame, list[str]]:
    """The rows that pass all `filters`, and notes. Raises ConfigError for an unknown key, or when no row is left."""
    rows, _ = keys.expand(rows)
    known = [name for name in map(str, rows) if name != keys.FOLDER]
    notes = []
    for one in filters:
        name = keys.resolve(one.key, known, "--filter")
        kept = rows[passes(rows[name], one, "--filter")]
        if kept.empty:
            values = sorted(printed.settings(rows[name]).unique())
            found = ", ".join(value or "(empty)" for value in values[:10]) + ", ..." * (len(values) > 10)
            raise ConfigError(f"No row passes --filter '{one.key} {one.op} {one.value}'. Found in {name}: {found}.")
        if keys.is_metric(name):
            notes.append(f"Runs were chosen by {name}, which they measured: means over what is left are biased.")
        rows = kept
    return rows, notes


def equals(cells: pd.Series, value: str) -> pd.Series:
    """Which cells are `value`, as numbers where both are; an empty value stands for an empty cell."""
    return _compares(cells, "==", value, "")


def passes(cells: pd.Series, one: Filter, flag: str) -> pd.Series:
    """Which cells fulfil the condition that was given to `flag`."""
    if one.op == "~":
        return printed.settings(cells).str.contains(one.value, case=False, regex=False)
    if one.op == "in":
        listed = [_unquoted(value.strip()) for value in one.value.strip("[]()").split(",")]
        passes = _compares(cells, "==", listed[0], flag)
        for value in listed[1:]:
            passes |= _compares(cells, "==", value, flag)
        return passes
    return _compares(cells, one.op, one.value, flag)


def _compares(cells: pd.Series, op: str, value: str, flag: str) -> pd.Series:
    """Numbers where both sides are numbers, else as text; an empty cell is neither more nor less than anything."""
    compare = COMPARISONS[op]
    is_number = pd.api.types.is_numeric_dtype(cells)
    equality = op in ("==", "!=")
    by_text = compare(printed.settings(cells), value) & (cells.notna() | equality)
    try:
        number = float(value)
    except ValueError:
        if is_number and not equality:
            raise ConfigError(
                f"{flag}: {cells.name} holds numbers; expected one after {op}, found '{value}'."
            ) from None
        return by_text
    numbers = pd.to_numeric(cells, errors="coerce")
    return compare(numbers, number).where(numbers.notna(), by_text)


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
