"""What lies in the cache's folder. Links are not followed, and what is not known is left alone."""

import csv
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tlmtl.store import blocks, inuse, kept

KINDS = {
    "features": "what frozen backbones gave for images",
    "images": "decoded and resized images",
    "sources": "models that source=pretrain has trained",
    "scans": "what one reading of the files of a data set found",
    "plans": "which format of a model was fastest on this machine",
}
STORES = ("features", "images")  # what output.cache_mb limits
OTHER = "other"  # not this program's, or of a later version of it


@dataclass
class Entry:
    """One thing that is kept.

    Arguments:
        of: what it is, in words.
        rows: images or files that it knows; None where they are not counted.
        size: bytes.
        made: seconds since the epoch; None where that is not known.
        used: the last time that is known.
    """

    kind: str
    path: Path
    of: str
    rows: int | None
    size: int
    made: float | None
    used: float


def entries(root: Path) -> list[Entry]:
    """All that lies in the folder, by kind and then the last used first."""
    stores = [_store(one) for one in kept.stores(root)]
    found = [*stores, *_sources(root / "sources"), *_scans(root / "scans"), *_plans(root / "plans")]
    known = {one.path for one in found}
    for place in _below(root):
        inside = _below(place) if place.is_dir() and not place.is_symlink() else []
        if not inside or not known & set(inside):
            inside = [place] if place.name not in KINDS else inside
        for one in inside:
            if one not in known and one.suffix not in (".lock", ".used"):
                found.append(Entry(OTHER, one, "not known here, and left alone", None, _size(one), *_times(one)))
    order = [*KINDS, OTHER]
    return sorted(found, key=lambda one: (order.index(one.kind) if one.kind in order else 0, -one.used, str(one.path)))


def remove(entry: Entry) -> str:
    """Take one away. Returns why it stays, or ""."""
    if entry.kind == OTHER:
        return "it is not this program's"
    try:
        if entry.kind in ("scans", "plans"):
            entry.path.unlink(missing_ok=True)
            return ""
        with FileLock(entry.path.with_name(f"{entry.path.name}.lock"), timeout=0):
            if entry.kind == "sources":
                with inuse.nobody_uses(entry.path) as free:
                    if not free:
                        return "a run uses it"
                    shutil.rmtree(entry.path)
            else:
                _remove_store(entry.path)
        return ""
    except Timeout:
        return "a process is making it"
    except OSError as error:
        return error.strerror or str(error)


def _remove_store(folder: Path) -> None:
    about = kept.about(folder)
    if about is not None and about["format"] != blocks.FORMAT:
        shutil.rmtree(folder)
        return
    for record in kept.records(folder):
        blocks.remove(record)
    for path in (*blocks.leftovers(folder), folder / kept.ABOUT):
        path.unlink(missing_ok=True)
    if not _below(folder):
        folder.rmdir()


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder))
    except OSError:
        return []


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_dir():
        return path.lstat().st_size
    return sum(os.lstat(os.path.join(top, name)).st_size for top, _, names in os.walk(path) for name in names)  # noqa: PTH118


def _times(path: Path) -> tuple[float, float]:
    there = path.lstat()
    return there.st_mtime, there.st_mtime


def _store(store: kept.Kept) -> Entry:
    made = (store.folder / kept.ABOUT).lstat().st_mtime
    kind = str(store.about["kind"])
    if not store.ours:
        of, rows = f"of tlmtl {store.about['tlmtl']}, in a form of its own", None
    else:
        of, rows = words(kind, store.about["about"]), sum(map(_rows, store.blocks))
    return Entry(kind, store.folder, of, rows, store.size, made, store.used or made)


def _rows(record: Path) -> int:
    try:
        return int(json.loads(record.read_bytes())["rows"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def words(kind: str, about: Any) -> str:
    """What the rows of a store are, as far as `about` says it in terms that are known here."""
    about = about if isinstance(about, dict) else {}
    shape = about.get("shape")
    shape = "x".join(map(str, shape[1:])) + f"x{shape[0]}" if isinstance(shape, list) and len(shape) == 3 else ""
    if kind == "images":
        how = [shape, about.get("interpolation"), f"crop {about['crop']}" if about.get("crop") else "whole"]
    else:
        view = about.get("view")
        seen = f"{view[0]}, view {view[1]}" if isinstance(view, list) and len(view) > 1 else None
        how = [
            _model(about),
            about.get("where"),
            shape,
            seen,
            about.get("engine"),
            about.get("precision"),
            about.get("device"),
        ]
    return ", ".join(str(one) for one in how if one) or "rows"


def _model(about: dict[str, Any]) -> str:
    model = about.get("model")
    model = model if isinstance(model, dict) else {}
    return str(model.get("name") or str(model.get("_target_", "")).rpartition(".")[2])


def _sources(folder: Path) -> list[Entry]:
    found = []
    for path in _below(folder):
        record = path / "run.json"
        if path.is_symlink() or not record.is_file() or not re.fullmatch("[0-9a-f]+_[0-9a-f]+", path.name):
            continue
        made = record.lstat().st_mtime
        found.append(Entry("sources", path, _run(path), None, _size(path), made, inuse.last_used(path) or made))
    return found


def _run(folder: Path) -> str:
    """Model, data set and epochs of a run that has finished."""
    try:
        with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
            row = next(csv.DictReader(file))
        config = (folder / "config.yaml").read_text(encoding="utf-8")
        data = re.search(r"^dataset:\n(?: .*\n)*?  _target_: [\w.]*\.(\w+)$", config, re.MULTILINE)
        return f"{row['model']} trained on {data[1] if data else '?'}, train.epochs={row['epochs']}"
    except (OSError, ValueError, KeyError, StopIteration, csv.Error):
        return "a run that has not finished"


def _scans(folder: Path) -> list[Entry]:
    found = []
    for path in _below(folder):
        if path.is_file() and not path.is_symlink() and re.fullmatch(r"[0-9a-f]{16}\.parquet", path.name):
            of, rows = _files(path)
            found.append(Entry("scans", path, of, rows, path.lstat().st_size, None, path.lstat().st_mtime))
    return found


def _files(path: Path) -> tuple[str, int | None]:
    """Where the files lie that were read, and how many they are."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            first = next(file.iter_batches(1, columns=["name"]), None)
            name = str(first["name"][0]) if first is not None and len(first) else ""
            return f"files below {Path(name).parent}" if "/" in name else "images of a library", file.metadata.num_rows
    except (OSError, KeyError, IndexError, pa.ArrowException):
        return "cannot be read: it is made again", None


def _plans(folder: Path) -> list[Entry]:
    found = []
    for path in _below(folder):
        if path.is_file() and not path.is_symlink() and re.fullmatch(r"[0-9a-f]{16}\.json", path.name):
            found.append(Entry("plans", path, _plan(path), None, path.lstat().st_size, *_times(path)))
    return found


def _plan(path: Path) -> str:
    try:
        said = json.loads(path.read_bytes())
        return ", ".join(map(str, (_model(said["about"]), said["about"]["device"], *said["plan"].values())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "cannot be read: it is made again"
