"""Where predictions go: CSV to standard output or a file as they come, or a Parquet file; whole or not there."""

import csv
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tlmtl import files
from tlmtl.errors import ConfigError

Rows = Iterable[dict[str, Any]]  # all with the same keys


def check(path: Path | None) -> None:
    """Raises ConfigError for a file that cannot be written, before anything is computed."""
    if path is None:
        return
    if path.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"--out should be a .csv or .parquet file. Found {path}.")
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"--out should be a file in a folder that is there. Found {path}.")


def write(rows: Rows, path: Path | None) -> None:
    """All rows to `path`, or to standard output when it is None. A file is replaced when the last row is written."""
    first, rows = _peeked(rows)  # an error before the first row leaves nothing behind
    if path is None:
        _csv(sys.stdout, first, rows)
        sys.stdout.flush()
    elif path.suffix == ".csv":
        files.write(path, lambda temporary: _csv_file(temporary, first, rows))
    else:
        files.write(path, lambda temporary: _parquet(temporary, rows))


def _peeked(rows: Rows) -> tuple[list[str], Rows]:
    found = iter(rows)
    row = next(found)

    def again() -> Iterator[dict[str, Any]]:
        yield row
        yield from found

    return list(row), again()


def _csv(stream: Any, names: list[str], rows: Rows) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([_writable(name, encoding) for name in names])
    writer.writerows([_writable(_cell(row[name]), encoding) for name in names] for row in rows)


def _csv_file(path: Path, names: list[str], rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        _csv(stream, names, rows)


def _parquet(path: Path, rows: Rows) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = [{_writable(name): _writable(value) for name, value in row.items()} for row in rows]
    parquet.write_table(pa.Table.from_pylist(table), path)


def _writable(value: Any, encoding: str = "utf-8") -> Any:
    """Text with `\\...` for what `encoding` has not: names of files are bytes, and need not be UTF-8."""
    return value.encode(encoding, "backslashreplace").decode(encoding) if isinstance(value, str) else value


def _cell(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else value
