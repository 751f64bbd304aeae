"""What a run said about each example, read from its folder without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = "predictions.parquet"
FURTHER = "->"  # in the `dataset` of a row on a further test set


@dataclass(frozen=True)
class Said:
    """Outputs of one task on one split, for the examples that have its label.

    Classification: `target` (n,) class numbers, `output` (n, K) scores before softmax. Regression: values (n,) and (n, 1).
    Multilabel: `target` (n, K) of 0, 1 and NaN for unknown, `output` (n, K) scores before sigmoid. Reconstruction: `target`
    (n, 2) mean and mean square of each image, `output` (n, 1) root mean squared errors.
    """

    ids: NDArray[Any]  # names of the examples, (n,)
    target: NDArray[np.float64]
    output: NDArray[np.float64]


def folder_of(table_folder: str | Path, config_hash: str) -> Path | None:
    """The run's folder with predictions: `table_folder`, where its results.csv is, or the one of that name in a sweep's."""
    for folder in (Path(table_folder), Path(table_folder) / str(config_hash)):
        if (folder / FILE).is_file():
            return folder
    return None


def split_of(dataset: str) -> str:
    """The split that a row's test figures were measured on: `test`, or `test:NAME` of a further test set."""
    further = str(dataset).partition(FURTHER)[2]
    return f"test:{further}" if further else "test"


def read(folder: Path, task: str, split: str = "test") -> Said | None:
    """What the run in `folder` said for `task` on `split`; None where it said nothing, no example has a label, or the file
    can't be read (it was cut, or made by another program)."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        wanted = [("task", "=", task), ("split", "=", split)]
        table = parquet.read_table(folder / FILE, filters=wanted, use_threads=False)
        output, ids = _rows(table["output"]), table["id"].to_numpy(zero_copy_only=False)
        if "targets" in table.column_names and table["targets"].null_count < len(table):
            listed = table.filter(table["targets"].is_valid())
            return Said(listed["id"].to_numpy(zero_copy_only=False), _rows(listed["targets"]), _rows(listed["output"]))
        target = table["target"].to_numpy(zero_copy_only=False).astype(float)
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    there = ~np.isnan(target)
    return Said(ids[there], target[there], output[there]) if there.any() else None


def _rows(column: Any) -> NDArray[np.float64]:
    """A column of lists of one length as (n, length); nulls inside the lists become NaN."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(float)
    found: NDArray[np.float64] = flat.reshape(len(column), -1) if len(column) else flat.reshape(0, 0)
    return found
