"""From paths to rows: finds `results.csv` files and reads them into one frame, or says what is wrong and where."""

import csv
import os
from pathlib import Path

import pandas as pd

from tlmtl import columns
from tlmtl.compare import keys
from tlmtl.errors import ConfigError

RESULTS = "results.csv"
REQUIRED = ["run_id", "config_hash", "group_id", "status", "dataset", "task"]


def find(path: str | Path) -> list[Path]:
    """The `results.csv` files that `path` stands for: itself, the one in it, or those of the run folders below it."""
    path = Path(path)
    if path.is_file():
        return [path]
    if path.is_symlink() and not path.exists():
        raise ConfigError(f"Expected results at {path}, found a link to {path.readlink()}, which is gone.")
    if not path.exists():
        raise ConfigError(
            f"Expected a {RESULTS} or a folder of runs, found nothing at {path}. "
            f"Check the path: runs are kept in outputs/runs, sweeps in outputs/sweeps."
        )
    found = []
    for folder, below, names in os.walk(path, onerror=_refuse):
        if RESULTS in names:
            found.append(Path(folder) / RESULTS)
            below.clear()  # a sweep's file already holds the rows of its runs
        below.sort()
    if not found:
        raise ConfigError(
            f"Expected a {RESULTS} in {path} or in a folder below it, found none. "
            f"Give the folder of a run or a sweep that has finished, or a {RESULTS} itself."
        )
    return found


def read(paths: list[str | Path], rename: dict[str, str] | None = None) -> pd.DataFrame:
    """All rows of `paths`, one per run and task, typed and in the column order of the contract.

    `rename` maps names of columns in the files to ours, before anything else looks at them.
    Raises ConfigError for a path without results and for a file that isn't a tlmtl table.
    """
    files = [file for path in paths for file in find(path)]
    tables: dict[tuple[str, ...], tuple[list[list[str]], list[tuple[Path, int]]]] = {}
    originals: set[str] = set()
    for file in files:
        header, body, lines = _parse(file)
        originals.update(header)
        rows, origin = tables.setdefault(_renamed(header, rename or {}, file), ([], []))
        rows += body
        origin += [(file, line) for line in lines]
    for name in rename or {}:
        if name not in originals:
            raise keys.unknown(name, sorted(originals), "--rename (a column of the files)")
    frames = [
        keys.clean(pd.DataFrame(rows, columns=list(header)), origin).assign(
            **{keys.FOLDER: [str(file.parent) for file, _ in origin]}
        )
        for header, (rows, origin) in tables.items()
        if rows
    ]
    if not frames:
        raise ConfigError(f"Expected rows of results, found only column names in {', '.join(map(str, files))}.")
    joined = pd.concat(frames, ignore_index=True)
    # A run may be seen twice, in its own folder and in its sweep's file: a finished row outranks one of before.
    joined = joined.iloc[joined["status"].ne("done").argsort(kind="stable")].drop_duplicates(
        ["run_id", "dataset", "task"]
    )
    known = [name for name in columns.ordered(list(joined.columns)) if name in joined]  # older files lack some
    return joined[known].sort_index(ignore_index=True)


def _parse(file: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """Column names, rows and each row's line number. The csv module, since it knows lines and leaves `none` alone."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            try:
                read = [(row, reader.line_num) for row in reader if row]
            except csv.Error as error:
                raise ConfigError(f"{file}, line {reader.line_num}: expected cells with commas: {error}.") from error
    except OSError as error:
        raise ConfigError(f"Expected a readable {RESULTS}, found {file}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"Expected a {RESULTS} of tlmtl (UTF-8 text), found other bytes in {file}.") from error
    if not read:
        raise ConfigError(f"Expected a table with column names in its first line, found an empty file: {file}.")
    header = read[0][0]
    for row, line in read[1:]:
        if len(row) != len(header):
            raise ConfigError(
                f"{file}, line {line}: expected {len(header)} cells, one for each column, found {len(row)}. "
                f"Mend or remove that line."
            )
    return header, [row for row, _ in read[1:]], [line for _, line in read[1:]]


def _renamed(header: list[str], rename: dict[str, str], file: Path) -> tuple[str, ...]:
    """The header in our names; raises when it isn't one of a tlmtl table."""
    names = tuple(rename.get(name, name) for name in header)
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise ConfigError(
            f"{file} is not a table of tlmtl: expected the columns {', '.join(REQUIRED)}, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing; found {', '.join(names)[:300]}. "
            f"Give a {RESULTS} of tlmtl, or name its columns: --rename theirs=ours."
        )
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ConfigError(f"{file}: expected each column once, found {', '.join(twice)} more than once.")
    return names


def _refuse(error: OSError) -> None:
    raise ConfigError(f"Expected a readable folder, found {error.filename}: {error.strerror}.") from error
