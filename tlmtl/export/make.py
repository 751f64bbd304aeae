"""An export from top to bottom: the model rebuilt, written beside its place, compared with the run's, then moved there."""

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tlmtl import files
from tlmtl.errors import ConfigError, nearest
from tlmtl.export import formats
from tlmtl.export.about import describe
from tlmtl.export.agree import TOLERANCE, Agreement, agreement
from tlmtl.export.images import look
from tlmtl.export.place import SUFFIXES, Place
from tlmtl.export.served import Served, asked_by_part, pruned
from tlmtl.models.saved import read_model, read_record
from tlmtl.predict.model import Trained, rebuilt


@dataclass
class Made:
    """What was exported and how it was looked at."""

    about: dict[str, Any]
    agreement: Agreement
    images: str
    bytes: int


def export(run: Path, place: Place, tasks: Sequence[str] | None, batch: int | None, allow: list[str]) -> Made:
    """Export a run's model; it is in its place only when it says what the run's says.

    Arguments:
        run: the folder of a finished run.
        tasks: those of the run that are wanted; None for all.
        batch: how many images at a time; None for any number.
        allow: packages beside tlmtl's own that the model's parts may come from.

    Raises ConfigError for a folder that is no finished run and for unknown tasks, DiskError for what cannot be written, and
    ExportError for a model that does not go into the format or says something else there.
    """
    record = read_record(run, "RUN", "one to export")
    tensors, told = read_model(run)
    trained = rebuilt(tensors, told, run / "model.safetensors", allow)
    names = _chosen(list(trained.tasks), tasks)
    about = describe(trained, names, place.form, record, batch)
    looked = look(run, trained, allow, batch)
    with files.disk_errors(), _folder(place.model.parent) as built:
        path = built / f"model{SUFFIXES[place.form]}"
        _write(path, place.form, trained, names, about, told, batch)
        agreed = agreement(path, place.form, trained, names, looked.batches, allow)
        about["compared"] = {
            "images": looked.what,
            "batches": [len(one) for one in looked.batches],
            "largest_difference": agreed.difference,
            "allowed": TOLERANCE[place.form],
        }
        files.write_text(place.about, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
        size = path.stat().st_size
        files.write(place.model, path.replace)  # after what it says of itself: where it is, all is
    return Made(about, agreed, looked.what, size)


@contextlib.contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    """A temporary folder in `parent`, which is made if need be, and taken away again where nothing comes into it."""
    new = [path for path in (parent, *parent.parents) if not path.exists()]
    files.make_folder(parent, "--out")
    try:
        with tempfile.TemporaryDirectory(prefix=".export.", dir=parent) as built:
            yield Path(built)
    except BaseException:
        with contextlib.suppress(OSError):
            for path in new:
                path.rmdir()
        raise


def _chosen(known: list[str], wanted: Sequence[str] | None) -> list[str]:
    for name in wanted or []:
        if name not in known:
            raise ConfigError(
                f"The run has no task '{name}' (--task).{nearest(name, known)} It has: {', '.join(known)}."
            )
    return [name for name in known if wanted is None or name in wanted]


def _write(
    path: Path, form: str, trained: Trained, names: list[str], about: dict, told: dict[str, Any], batch: int | None
) -> None:
    if form != "safetensors":
        images = torch.zeros(batch or 2, trained.channels, *trained.size, dtype=torch.uint8)
        made = formats.program(Served(trained, names), images, dynamic=batch is None)
        (formats.write_onnx if form == "onnx" else formats.write_pt2)(path, made, about)
        return
    parts = asked_by_part(trained, names)
    model = pruned(trained, names, next(iter(parts)))
    state = model.state_dict()
    if trained.model.statistics is not None:  # those of each part, too, as the run's own file has them
        kept = tuple(f"statistics.{part}." for part in parts)
        state |= {name: one for name, one in trained.model.state_dict().items() if name.startswith(kept)}
    few = {
        "tasks": {name: told["tasks"][name] for name in names},
        "parts": parts if told["parts"] else {},
        "preprocess": trained.preprocess.as_dict(),
        "export": about,
    }
    formats.write_safetensors(path, state, {**told, **few})
    if len(names) < len(trained.tasks):
        try:
            rebuilt(state, {**told, **few, "preprocess": trained.preprocess}, path, [])
        except ConfigError as error:
            raise ConfigError(
                "With this sharing the modules of one task work for the others too, so that safetensors cannot leave some of "
                "them out: export all tasks, or --format onnx or pt2."
            ) from error
