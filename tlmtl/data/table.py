"""`dataset=table`: the user's own CSV or Parquet file, a row for each image, with one or more columns of labels."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tlmtl.data import tabular
from tlmtl.data.examples import Examples
from tlmtl.data.infer import KINDS, encode, kind_of, mixed
from tlmtl.data.scan import images_of, readable, scan
from tlmtl.errors import ConfigError
from tlmtl.schema import RECONSTRUCTION

NO_NAMES = {"type", "keys", "items", "values", "train", "eval", "half", "float", "double"}  # torch's modules have these


def table(
    path: str,
    image: str | None = None,
    root: str | None = None,
    labels: list[str] | None = None,
    id: str | None = None,
    split: str | None = "auto",
    group_column: str | None = None,
    separator: str | None = None,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    on_bad_image: str = "error",
    *,
    kinds: dict[str, str],
    cache: Path | None = None,
) -> Examples:
    """Tasks: one for each column of labels, as `tasks_of` finds them.

    Arguments:
        path: the CSV (comma, semicolon, tab or bar between cells) or Parquet file.
        image: the column of image files; found when None.
        root: the folder that relative image files are below; the table's own when None.
        labels: the columns of labels; all that can be tasks when None.
        id: a column that names each row; the image file when None.
        split: a column of train, val and test; "auto" takes one called `split` if there is one, None leaves it aside.
        group_column: images with the same value here (a patient, a module) never stand on both sides of a split.
        separator: between the labels of one cell in a multilabel column; found when None.
        on_bad_image: "error" names missing files and files that are no whole images; "skip" leaves them out and counts them.
        kinds: the kind of each column that is a task.

    Raises ConfigError for a column, a file, a split or a label that is not as it should be, with its row.
    """
    rows = tabular.read(path, delimiter, encoding)
    image = tabular.image_column(rows, image)
    where, lost = tabular.paths(rows, image, Path(root or Path(path).parent).expanduser())
    if lost and on_bad_image != "skip":
        shown = "\n".join(f"  row {row}: {cell or 'no file is named'}" for row, cell in lost[:5])
        more = f"\n  and {len(lost) - 5} more" if len(lost) > 5 else ""
        raise ConfigError(
            f"{len(lost)} of the {len(rows)} images named in the column '{image}' are not there:\n{shown}{more}\n"
            f"They are looked for below {root or Path(path).parent} (dataset.root). dataset.on_bad_image=skip leaves them out."
        )
    gone = {row for row, _ in lost}
    there = [i for i, row in enumerate(rows.index) if row not in gone]
    paths = [where[i] for i in there]
    facts = scan(paths, cache)
    good, bad = readable(facts, paths, on_bad_image)
    bad += [(f"row {row}: {cell}", "not there") for row, cell in lost]
    kept = rows.iloc[[there[i] for i in good]]
    if not len(kept):
        raise ConfigError(f"None of the images of {path} can be read.")
    # a further test set may lack the column of a task
    found = {name: _column(kept, name, kind, separator) for name, kind in kinds.items() if name in kept.columns}
    no_labels = ""
    if not kinds:
        has = ", ".join(rows.columns)
        no_labels = f"No column of {path} looks like labels. Name them: dataset.labels=[COLUMN]. It has: {has}."
    return Examples(
        images=images_of(paths, facts, good),
        columns={name: column.values for name, column in found.items()},
        classes={name: column.classes for name, column in found.items() if column.classes is not None},
        ids=_ids(kept, id, image),
        split=_splits(kept, tabular.split_column(rows, split)),
        groups=_groups(kept, group_column),
        bad=bad,
        notes=[f"Images are named in the column '{image}'."]
        + [f"Task {column.line(task_name(name))}" for name, column in found.items()]
        + _passed_over(rows, [image, id, group_column, tabular.split_column(rows, split), *kinds], group_column)
        + [note for column in found.values() for note in column.notes],
        no_labels=no_labels,
    )


def files_of(path: str, image: str | None = None, root: str | None = None, **settings: Any) -> list[str]:
    """The image files that a table names, whether they are there or not."""
    rows = tabular.read(path, settings.get("delimiter"), settings.get("encoding", "utf-8"))
    where, _ = tabular.paths(rows, tabular.image_column(rows, image), Path(root or Path(path).parent).expanduser())
    return where


def tasks_of(stated: dict[str, dict[str, Any]], **settings: Any) -> dict[str, dict[str, Any]]:
    """The tasks of a table by name: one for each column of labels, with what is `stated` of them (`dataset.tasks`).

    A column whose kind is not stated is inferred (`infer.kind_of`); what looks like an identifier is passed over. A stated
    reconstruction has no column. No task at all is a table of images without labels.
    """
    rows = tabular.read(settings["path"], settings.get("delimiter"), settings.get("encoding", "utf-8"))
    roles = {
        tabular.image_column(rows, settings.get("image")),
        tabular.split_column(rows, settings.get("split", "auto")),
        *(tabular.column(rows, settings[k], f"dataset.{k}") for k in ("id", "group_column") if settings.get(k)),
    }
    chosen = settings.get("labels")
    columns = [tabular.column(rows, c, "dataset.labels") for c in chosen or [] if c] or [
        name for name in rows.columns if name not in roles
    ]
    tasks: dict[str, dict[str, Any]] = {}
    for name in columns:
        task = task_name(name)
        said = stated.get(task) or {}
        if any((one or {}).get("target") == name for key, one in stated.items() if key != task):
            continue  # stated under a name of its own
        kind = said.get("kind") or kind_of(rows[name])
        if kind == "mixed":
            raise mixed(rows[name], name)
        if (kind is not None or chosen) and task in tasks:
            raise ConfigError(
                f"The columns '{tasks[task]['target']}' and '{name}' would both be called '{task}' as tasks. Rename one."
            )
        if kind is not None or chosen:
            tasks[task] = {"kind": kind or "classification", "target": name, **said}
    for task, said in stated.items():
        if task not in tasks and (said.get("kind") or (task if "target" not in said else None)) == RECONSTRUCTION:
            tasks[task] = {"kind": RECONSTRUCTION, **said}
        elif task not in tasks:
            name = tabular.column(rows, said.get("target") or task, f"dataset.tasks.{task}.target")
            tasks[task] = {"kind": kind_of(rows[name]) or "classification", "target": name, **said}
    return tasks


def task_name(column: str) -> str:
    """A task is called like its column, but for what a name in a config or a module cannot be."""
    return column.replace(".", "_") + ("_" if column in NO_NAMES else "")


def _column(rows: pd.DataFrame, name: str, kind: str, separator: str | None) -> Any:
    tabular.column(rows, name, "dataset.tasks.*.target")
    if kind not in KINDS:
        raise ConfigError(f"A column of a table can be {', '.join(KINDS)}. Found '{kind}' for '{name}'.")
    return encode(rows[name], kind, name, separator)


def _passed_over(rows: pd.DataFrame, used: list[str | None], group_column: str | None) -> list[str]:
    notes = []
    if others := [name for name in rows.columns if name not in used]:
        notes.append(
            f"Columns that are no task here: {', '.join(others)} (dataset.labels=[COLUMN] makes one of them one)."
        )
    if group_column and (alone := int((rows[group_column] == "").sum())):
        notes.append(f"{alone} rows without a '{group_column}' count as a group each.")
    return notes


def _ids(rows: pd.DataFrame, id: str | None, image: str) -> list[str]:
    if id is None:
        return [str(cell) for cell in rows[image]]
    cells = rows[tabular.column(rows, id, "dataset.id")]
    again = cells[cells.duplicated()]
    if len(again):
        raise ConfigError(
            f"'dataset.id={id}' should name each row, but '{again.iloc[0]}' comes again in row {again.index[0]}."
        )
    return [str(cell) for cell in cells]


def _splits(rows: pd.DataFrame, name: str | None) -> np.ndarray | None:
    if name is None:
        return None
    known = rows[name].str.lower().map(tabular.SPLIT_NAMES)
    if known.isna().any():
        row = known.index[known.isna()][0]
        raise ConfigError(
            f"The column '{name}' should say train, val or test in each row. Found '{rows[name][row]}' in row {row} "
            "(dataset.split=null leaves the column aside)."
        )
    return known.to_numpy(dtype=str)


def _groups(rows: pd.DataFrame, name: str | None) -> np.ndarray | None:
    if name is None:
        return None
    cells = rows[tabular.column(rows, name, "dataset.group_column")]
    return np.array([cell or f"row {row}" for row, cell in cells.items()])
