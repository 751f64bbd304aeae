"""What a column holds, and what a user's KEY means: a column, a config key, or a key of `overrides`."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from tlmtl import columns
from tlmtl.errors import ConfigError, nearest

# Settings that are numbers as a rule. Other settings stay text, whatever they look like.
NUMBERS = ["seed", "labels_per_class", "label_fraction", "epochs", "batch_size", "lr", "weight_decay", "threads"]
ITEM = re.compile(r'(?:^|; )(?:("(?:[^"\\]|\\.)*")(?=; |$)|((?:(?!; ).)*))', re.DOTALL)  # of `overrides`
FOLDER = "@folder"  # a column of rows that `load` adds: where their table stands
CONTRACT = [*columns.ROW, *columns.SETTINGS, *columns.PLAN, *columns.COSTS, *columns.PROVENANCE]


def is_metric(name: str) -> bool:
    return name.startswith(("val/", "test/"))


def is_measured(name: str) -> bool:
    """Whether a column holds numbers that a run measured: a metric or a cost."""
    return is_metric(name) or name in columns.COSTS


def clean(rows: pd.DataFrame, origin: list[tuple[Path, int]] | None = None) -> pd.DataFrame:
    """`rows` with measured columns and numeric settings as floats, all else as text, and empty cells as missing.

    `origin` names file and line of each row, for messages. Raises ConfigError for a measured cell that is no number.
    """
    typed = {}
    for name, cells in rows.items():
        if cells.dtype.kind in "iuf" and (name in NUMBERS or is_measured(str(name))):
            typed[name] = cells.astype(float)
            continue
        text = _text(cells)
        if is_measured(str(name)):
            typed[name] = _numbers(text, str(name), origin)
        else:
            typed[name] = number_or_text(text) if name in NUMBERS else text
    frame = pd.DataFrame(typed, index=rows.index)
    for name, substitute in (("config_hash", "run_id"), ("group_id", "config_hash")):  # a row without is one of its own
        frame[name] = frame[name].fillna(frame[substitute])
    return frame


def number_or_text(text: pd.Series) -> pd.Series:
    """Floats if every filled cell is a number, else the text as it is."""
    numbers = pd.to_numeric(text, errors="coerce").astype(float)
    return text if (numbers.isna() & text.notna()).any() else numbers


def expand(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """`rows` with one more column for each key in `overrides` (`key=value; key=value`), and the names of these."""
    if "overrides" not in rows:
        return rows, []
    parsed = {text: _split(text) for text in rows["overrides"].dropna().unique()}
    names = sorted({name for pairs in parsed.values() for name in pairs})
    added: dict[str, Any] = {}
    for name in names:
        cells = rows["overrides"].map({text: pairs.get(name) for text, pairs in parsed.items()})
        added[name] = number_or_text(_text(cells))
    return rows.assign(**added), names


def resolve(key: str, known: list[str], where: str) -> str:
    """The column that `key` means; `optimizer.lr` and `lr` are the same. Raises ConfigError with the nearest known."""
    for name in (key, columns.SHOWN.get(key, key)):
        if name in known:
            return name
    raise unknown(key, known, where)


def unknown(key: str, known: list[str], where: str) -> ConfigError:
    return ConfigError(f"Unknown key '{key}' in {where}.{nearest(key, known)} Known: {', '.join(known)}.")


def _split(overrides: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for part in _parts(overrides):
        key, equals, value = part.partition("=")
        if equals:
            key = key.strip().lstrip("+")
            pairs[f"overrides.{key}" if key in CONTRACT else key] = value.strip()
    return pairs


def _parts(overrides: str) -> list[str]:
    """The items of a cell of `overrides`; one that holds a semicolon itself is quoted as JSON quotes it."""
    found = []
    for quoted, plain in ITEM.findall(overrides):
        try:
            found.append(json.loads(quoted) if quoted else plain)
        except ValueError:  # not ours
            found.append(quoted)
    return found


def _text(cells: pd.Series) -> pd.Series:
    text = cells.astype("str")  # keeps missing cells missing
    return text.where(text != "")


def _numbers(text: pd.Series, name: str, origin: list[tuple[Path, int]] | None) -> pd.Series:
    numbers = pd.to_numeric(text, errors="coerce").astype(float)
    wrong = (numbers.isna() & text.notna() & (text.str.lower() != "nan")).to_numpy()
    if wrong.any():
        at = int(wrong.argmax())
        where = f"{origin[at][0]}, line {origin[at][1]}, " if origin else ""
        raise ConfigError(f"{where}column {name}: expected a number or nothing, found '{text.iloc[at]}'.")
    return numbers
