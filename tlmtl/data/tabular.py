"""A user's CSV or Parquet file as columns of text, and which column plays which part. Torch-free."""

import csv
import io
import os
from functools import lru_cache
from pathlib import Path

import pandas as pd

from tlmtl.data.decode import SUFFIXES
from tlmtl.errors import ConfigError, nearest

DELIMITERS = ",;\t|"
MISSING = ("", "nan", "NaN", "null")  # what counts as no value; `NA` and `none` may be classes
IMAGE_NAMES = ("image", "path", "file", "filename", "filepath", "file_name", "image_path", "img", "image_id", "photo")
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def read(path: str, delimiter: str | None = None, encoding: str = "utf-8", key: str = "dataset.{}") -> pd.DataFrame:
    """The file as text, one column per column, "" where a cell has no value; its index is the row's number in the file.

    Arguments:
        delimiter: of a CSV file; found from its first line when None.
        key: how a user sets `path`, `delimiter` and `encoding`, for messages.

    Raises ConfigError for a file that is not there, is no table, or is not in `encoding`.
    """
    place = Path(path).expanduser()
    if not place.is_file():
        found = "a folder" if place.is_dir() else "nothing"
        raise ConfigError(f"'{key.format('path')}' should be a CSV or Parquet file. Found {found} at {place}.")
    status = place.stat()
    return _read(str(place), delimiter, encoding, key, (status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=4)
def _read(path: str, delimiter: str | None, encoding: str, key: str, stamp: tuple[int, ...]) -> pd.DataFrame:
    if path.lower().endswith((".parquet", ".pq")):
        table = _parquet(path)
    else:
        text = _decoded(path, encoding, key.format("encoding"))
        first = text.lstrip("\r\n").split("\n", 1)[0]
        delimiter = delimiter or max(DELIMITERS, key=first.count)
        if not first.strip():
            raise ConfigError(f"{path} is empty: expected a line of column names, then a line for each image.")
        table = _rows(path, text, delimiter, key.format("delimiter"))
    table = table.set_axis([str(name).strip() or f"column {i + 1}" for i, name in enumerate(table.columns)], axis=1)
    twice = sorted({name for name in table.columns if list(table.columns).count(name) > 1})
    if twice:
        raise ConfigError(f"{path}: expected each column once, found {', '.join(twice)} more than once.")
    if not len(table):
        raise ConfigError(f"{path} has column names ({', '.join(table.columns)}) and no rows.")
    return table


def _decoded(path: str, encoding: str, key: str) -> str:
    raw = Path(path).read_bytes()
    if encoding == "utf-8" and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError(f"{path} is not UTF-8, but looks like UTF-16: {key}=utf-16, or save it as UTF-8.")
    try:
        text = raw.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except LookupError as error:
        raise ConfigError(f"'{key}' should name an encoding, such as cp1252. Found '{encoding}'.") from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(
            f"{path} is not {encoding.upper()}: byte {raw[error.start]:#04x} in line {line}. Save it as UTF-8, or say "
            f"what it is, such as {key}=cp1252 (Windows, western European)."
        ) from error
    if "\0" in text:
        raise ConfigError(f"{path} is no CSV file: it holds binary data.")
    return text


def _rows(path: str, text: str, delimiter: str, key: str) -> pd.DataFrame:
    """The rows with their line numbers. The csv module, since it knows lines and changes no cell."""
    if len(delimiter) != 1:
        raise ConfigError(f"'{key}' should be one character, such as ';'. Found '{delimiter}'.")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        found = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise ConfigError(
            f"{path}, line {reader.line_num}: expected cells with '{delimiter}' between: {error}."
        ) from error
    header = found[0][1]
    for line, row in found[1:]:
        if len(row) != len(header):
            raise ConfigError(
                f"{path}, line {line}: expected {len(header)} cells, one for each column, found {len(row)}. "
                f"The cells are taken to have '{delimiter}' between ({key})."
            )
    body = [[_cell(cell) for cell in row] for _, row in found[1:]]
    return pd.DataFrame(body, columns=header, index=[line for line, _ in found[1:]], dtype=object)


def _parquet(path: str) -> pd.DataFrame:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error
    columns = {}
    for name in table.column_names:
        values = table[name].to_pylist()
        columns[name] = [
            ";".join(map(str, v)) if isinstance(v, list) else "" if v is None else _cell(str(v)) for v in values
        ]
    return pd.DataFrame(columns, index=range(1, len(table) + 1), dtype=object)


def _cell(text: str) -> str:
    text = text.strip()
    return "" if text in MISSING else text


def column(table: pd.DataFrame, name: str, key: str) -> str:
    """`name`, if the table has it. Raises ConfigError listing the columns."""
    if name not in table.columns:
        raise ConfigError(
            f"'{key}' should be a column of the table. Found '{name}'.{nearest(name, list(table.columns))} "
            f"It has: {', '.join(table.columns)}."
        )
    return name


def image_column(table: pd.DataFrame, wanted: str | None, key: str = "dataset.image") -> str:
    """The column of image paths: the one named, else one with a usual name, else the first whose cells look like files."""
    if wanted is not None:
        return column(table, wanted, key)
    lower = {name.lower(): name for name in reversed(table.columns)}
    named = [lower[name] for name in IMAGE_NAMES if name in lower]
    for name in [*named, *table.columns]:
        cells = table[name].head(50)
        if all(os.path.splitext(cell)[1].lower() in SUFFIXES for cell in cells if cell) and any(cells):
            return name
    if named:
        return named[0]
    raise ConfigError(
        f"No column of the table holds names of image files. Name it: {key}=COLUMN. It has: {', '.join(table.columns)}."
    )


def split_column(table: pd.DataFrame, wanted: str | None) -> str | None:
    """The column of splits: the one named; for "auto", one called `split` that mostly holds splits; else None."""
    if wanted is None:
        return None
    if wanted != "auto":
        return column(table, wanted, "dataset.split")
    for name in table.columns:
        known = table[name].str.lower().isin(list(SPLIT_NAMES))
        if (
            name.lower() in ("split", "subset", "partition") and known.mean() >= 0.5
        ):  # a wrong cell is told, not passed over
            return name
    return None


def paths(table: pd.DataFrame, name: str, root: Path) -> tuple[list[str], list[tuple[int, str]]]:
    """The files of a column, relative ones below `root`, and those (row number, text) that are not there."""
    found = [os.path.join(root, cell) if cell else "" for cell in table[name]]
    lost = [(row, cell) for row, cell, path in zip(table.index, table[name], found, strict=True)
            if not os.path.isfile(path)]  # fmt: skip
    return found, lost
