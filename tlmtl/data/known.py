"""What was found out about the files of a data set, kept in the cache by name and stamp."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlmtl import files

if TYPE_CHECKING:
    import pandas as pd

VERSION = "4"  # of what is found; another one is not read
STAMP = ["size", "mtime", "ctime"]


def stamp(path: str) -> tuple[int, int, int]:
    """Size, time of change and of status change: a file that was exchanged differs in one of them. -1 for no file."""
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1, -1
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def below(folder: str) -> list[str]:
    """Every file below a folder, in a fixed order."""
    return sorted(os.path.join(top, name) for top, _, names in os.walk(folder) for name in names)


def place(key: str, cache: Path | None) -> Path | None:
    """The file that belongs to `key`; None without a cache."""
    name = f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.parquet"
    return cache / "scans" / name if cache is not None and key else None


def recall(place: Path | None, names: Sequence[str], stamps: np.ndarray, fields: Sequence[str]) -> "pd.DataFrame":
    """A row for each of `names` whose stamp (N, 3) is the one that is kept, indexed by position in `names`.

    Empty where nothing usable is kept.
    """
    import pandas as pd

    nothing = pd.DataFrame({name: [] for name in fields}, index=np.empty(0, dtype=np.int64))
    table = _kept(place)
    if table is None or not {"name", *STAMP, *fields} <= set(table.column_names):
        return nothing
    with contextlib.suppress(OSError):
        os.utime(str(place))  # what has not been used for long may go
    kept = table.select(["name", *STAMP, *fields]).to_pandas().drop_duplicates("name")
    at = pd.Index(kept["name"]).get_indexer(pd.Index(names))
    positions = np.flatnonzero(at >= 0)
    same = (kept[STAMP].to_numpy()[at[positions]] == stamps[positions]).all(1)
    positions = positions[same]
    return kept.iloc[at[positions]][list(fields)].set_axis(positions)


def _kept(place: Path | None) -> Any:
    """The table that is there, of this version; None where there is none that can be read."""
    import pyarrow as pa
    from pyarrow import parquet

    if place is None or not place.is_file():
        return None
    try:
        table = parquet.read_table(place)
    except (OSError, pa.ArrowException):
        return None
    return table if (table.schema.metadata or {}).get(b"version") == VERSION.encode() else None


def keep(place: Path | None, names: Sequence[str], stamps: np.ndarray, found: "pd.DataFrame") -> None:
    """Keep `found`, a row for each of `names`, beside what is known of other files in the same place.

    A cache that cannot be written costs time alone.
    """
    import pyarrow as pa
    import pyarrow.compute
    from pyarrow import parquet

    if place is None:
        return
    columns: dict[str, Any] = {"name": list(names), **{name: stamps[:, i] for i, name in enumerate(STAMP)}}
    table = pa.Table.from_pandas(found.assign(**columns), preserve_index=False)
    table = table.replace_schema_metadata({"version": VERSION})
    others = _kept(place)
    if others is not None and others.schema.equals(table.schema):
        mask = pa.compute.invert(pa.compute.is_in(others["name"], value_set=table["name"].combine_chunks()))
        table = pa.concat_tables([table, others.filter(mask)]).replace_schema_metadata({"version": VERSION})
    with contextlib.suppress(OSError, UnicodeEncodeError):
        place.parent.mkdir(parents=True, exist_ok=True)
        files.write(place, lambda temporary: parquet.write_table(table, temporary))
