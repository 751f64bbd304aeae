"""From paths to rows: finds `results.csv` files and reads them into one frame, or says what is wrong and where."""

import os
from pathlib import Path

import pandas as pd

from tlmtl import columns
from tlmtl.compare import foreign, keys, parse
from tlmtl.errors import ConfigError

RESULTS = "results.csv"


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
    Raises ConfigError for a path without results and for a file that can't be read as a table of them.
    """
    return read_noted(paths, rename)[0]


def read_noted(paths: list[str | Path], rename: dict[str, str] | None = None) -> tuple[pd.DataFrame, list[str]]:
    """`read`, and notes on what was filled in for tables that are not of tlmtl."""
    files = [file for path in paths for file in find(path)]
    tables: dict[tuple[str, ...], tuple[list[list[str]], list[tuple[Path, int]]]] = {}
    strangers: dict[Path, tuple[tuple[str, ...], list[list[str]], list[int]]] = {}
    originals: set[str] = set()
    for file in files:
        header, body, lines = parse.read(file)
        originals.update(header)
        names = _renamed(header, rename or {}, file)
        if foreign.is_foreign(names) and body:
            strangers[file] = (names, body, lines)
            continue
        rows, origin = tables.setdefault(names, ([], []))
        rows += body
        origin += [(file, line) for line in lines]
    for name in rename or {}:
        if name not in originals:
            raise keys.unknown(name, sorted(originals), "--rename (a column of the files)")
    frames = [
        _typed(pd.DataFrame(rows, columns=list(names)), origin) for names, (rows, origin) in tables.items() if rows
    ]
    notes = []
    for file, (names, body, lines) in strangers.items():
        filled, more = foreign.fill(pd.DataFrame(body, columns=list(names)), file, len(strangers) > 1)
        frames.append(_typed(filled, [(file, line) for line in lines]))
        notes += more
    if not frames:
        raise ConfigError(f"Expected rows of results, found only column names in {', '.join(map(str, files))}.")
    joined = pd.concat(frames, ignore_index=True)
    # A run may be seen twice, in its own folder and in its sweep's file: a finished row outranks one of before.
    joined = joined.iloc[joined["status"].ne("done").argsort(kind="stable")].drop_duplicates(
        ["run_id", "dataset", "task"]
    )
    known = [name for name in columns.ordered(list(joined.columns)) if name in joined]  # older files lack some
    return joined[known].sort_index(ignore_index=True), notes


def _typed(rows: pd.DataFrame, origin: list[tuple[Path, int]]) -> pd.DataFrame:
    return keys.clean(rows, origin).assign(**{keys.FOLDER: [str(file.parent) for file, _ in origin]})


def _renamed(header: list[str], rename: dict[str, str], file: Path) -> tuple[str, ...]:
    """The header in our names; raises where two columns have one name."""
    names = tuple(rename.get(name, name) for name in header)
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        by = [theirs for theirs, ours in rename.items() if ours in twice and theirs in header]
        hint = (
            f" The file has a column of that name: rename that one too, such as --rename {twice[0]}=old." if by else ""
        )
        raise ConfigError(
            f"{file}: expected each column once, found {', '.join(twice) or '(empty)'} more than once.{hint}"
        )
    return names


def _refuse(error: OSError) -> None:
    raise ConfigError(f"Expected a readable folder, found {error.filename}: {error.strerror}.") from error
