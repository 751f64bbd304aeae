"""A CSV to names and cells, each row with its line number; or what is wrong with it, and in which line."""

import csv
import re
from pathlib import Path

from tlmtl.errors import ConfigError

COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")  # a number as most of Europe writes it
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")  # what would break a line of a table, or steer a terminal

Cells = tuple[list[str], list[list[str]], list[int]]


def read(file: Path) -> Cells:
    """Column names, rows and each row's line number. The csv module, since it knows lines and leaves `none` alone.

    Cells may stand between semicolons or tabs, where the first line holds no comma; numbers may have a comma for a point then.
    Control characters become blanks, but for the lines of an `error`.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            first = stream.readline()
            between = next((one for one in ",;\t" if one in first), ",")
            stream.seek(0)
            reader = csv.reader(stream, strict=True, delimiter=between)
            try:
                found = [(row, reader.line_num) for row in reader if row]
            except csv.Error as error:
                raise ConfigError(f"{file}, line {reader.line_num}: expected cells with commas: {error}.") from error
    except OSError as error:
        raise ConfigError(f"Expected a readable results.csv, found {file}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"Expected a table as UTF-8 text (CSV), found other bytes in {file}.") from error
    if not found:
        raise ConfigError(f"Expected a table with column names in its first line, found an empty file: {file}.")
    header = [CONTROL.sub(" ", name).strip() for name in found[0][0]]
    for row, line in found[1:]:
        if len(row) != len(header):
            raise ConfigError(
                f"{file}, line {line}: expected {len(header)} cells, one for each column, found {len(row)}. "
                f"Mend or remove that line."
            )
    rows = [row if all(map(str.isprintable, row)) else _shown(row, header) for row, _ in found[1:]]
    if between != ",":
        rows = [[cell.replace(",", ".") if COMMA.fullmatch(cell) else cell for cell in row] for row in rows]
    return header, rows, [line for _, line in found[1:]]


def _shown(row: list[str], header: list[str]) -> list[str]:
    return [
        "\n".join(CONTROL.sub(" ", line) for line in cell.split("\n")) if name == "error" else CONTROL.sub(" ", cell)
        for name, cell in zip(header, row, strict=True)
    ]
