"""Images through a model, batch by batch: read in the background, shown as rows."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tlmtl.data.feed import ahead
from tlmtl.data.images import in_threads
from tlmtl.errors import ConfigError
from tlmtl.predict.engine import Engine
from tlmtl.predict.inputs import Named
from tlmtl.predict.model import Trained
from tlmtl.progress import counted


@dataclass
class Told:
    """What is known after the last row."""

    images: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)


def predictions(
    trained: Trained, named: Sequence[Named], top: int, batch_size: int, told: Told, engine: str = "auto"
) -> Iterator[dict[str, Any]]:
    """A row for each image: its name, what each task says (`Task.explain`), and why it could not be read.

    Arguments:
        engine: what runs the backbone (`Engine`).

    Raises ConfigError when none of the images can be read, and for an engine that cannot be used.
    """
    run = Engine(trained, engine, len(named), min(batch_size, len(named)))
    read = _reader(trained)
    waiting: list[dict[str, Any]] = []  # rows of unreadable images before the first good one
    blank: dict[str, None] = {}
    with (
        counted(len(named), "Predicting") as tell,
        closing(ahead(read, [named[i : i + batch_size] for i in range(0, len(named), batch_size)])) as feed,
    ):
        for (names, images, errors), _ in feed:
            good = [i for i, error in enumerate(errors) if not error]
            columns = _columns(trained, run(images), top) if good else {}
            blank = blank or dict.fromkeys(columns)
            rows: list[dict[str, Any]] = [{"image": name, **blank, "error": error or None}
                                          for name, error in zip(names, errors, strict=True)]  # fmt: skip
            for at, i in enumerate(good):
                rows[i].update({key: values[at] for key, values in columns.items()})
            told.images += len(rows)
            told.bad += [(name, error) for name, error in zip(names, errors, strict=True) if error]
            if blank:
                yield from ({"image": row["image"], **blank, "error": row["error"]} for row in waiting)
                waiting = []
                yield from rows
            else:
                waiting += rows
            tell(len(rows))
    if waiting:
        shown = "\n".join(f"  {row['image']}: {row['error']}" for row in waiting[:5])
        raise ConfigError(f"None of the {len(waiting)} file(s) can be read as an image:\n{shown}")


def _reader(trained: Trained) -> Any:
    def one(named: Named) -> Tensor | str:
        try:
            return trained.read(named[1])
        except OSError as error:
            return str(error) or type(error).__name__

    def read(batch: Sequence[Named]) -> tuple[list[str], Tensor, list[str]]:
        found = in_threads(one, batch)
        images = [image for image in found if not isinstance(image, str)]
        joined = torch.cat(images) if images else torch.empty(0)
        return [name for name, _ in batch], joined, [error if isinstance(error, str) else "" for error in found]

    return read


def _columns(trained: Trained, outputs: dict[str, Tensor], top: int) -> dict[str, list]:
    found: dict[str, list] = {}
    for name, task in trained.tasks.items():
        for suffix, values in task.explain(outputs[name], top).items():
            key = f"{name}{suffix}"
            while key in found or key in ("image", "error"):
                key += "_"
            found[key] = values
    return found
