"""From `cfg.dataset` to streams: examples of a family, their splits, the labelled subset, the tasks, and all hashes."""

import copy
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from tlmtl.config import check_dataset, find_target, keywords
from tlmtl.data.augment import augmentation
from tlmtl.data.decoded import Decoded
from tlmtl.data.examples import Examples
from tlmtl.data.labels import (
    check_column,
    check_seen,
    columns_of,
    select_tasks,
    with_labels,
    with_reconstruction,
    without_labels,
)
from tlmtl.data.read import digest, read
from tlmtl.data.streams import Stream
from tlmtl.data.subset import subset
from tlmtl.preprocess import Preprocess
from tlmtl.schema import RECONSTRUCTION
from tlmtl.tasks.base import Task
from tlmtl.tasks.kinds import make_task


@dataclass
class Data:
    """A data set ready to be streamed, once a model says what pre-processing it wants."""

    examples: Examples
    splits: dict[str, np.ndarray]  # train is the labelled subset
    tasks: dict[str, Task]
    targets: dict[str, Tensor]
    mask: dict[str, Tensor]
    columns: dict[str, str]  # by task, the column of its labels
    augment: str
    hash: str  # of images, labels and splits
    subset_hash: str  # of the training examples that are kept
    in_memory: int = 2 * 2**30  # bytes up to which resized images are kept
    on_duplicate: str = "error"
    part: str = ""  # what it is called among the parts of a joint data set
    decoded: Decoded | None = None  # where resized images are kept for further runs
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # (C, H, W) of an image, by how it is resized

    @property
    def ids(self) -> list[str]:
        """The names of all examples, told apart from those of other parts."""
        return [f"{self.part}/{name}" for name in self.examples.ids] if self.part else self.examples.ids

    @property
    def channels(self) -> int:
        return self.examples.images.channels

    def stream(self, split: str, preprocess: Preprocess) -> Stream:
        """A split as a model takes it. All splits together are kept in memory, resized, or none of them is."""
        where, images = torch.from_numpy(self.splits[split]), self.examples.images
        used = np.concatenate(list(self.splits.values()))
        if (sized := repr(preprocess)) not in self.shapes:
            self.shapes[sized] = tuple(images.read(torch.from_numpy(used[:1]), preprocess).shape[1:])
        shape = self.shapes[sized]
        return Stream(
            split,
            images,
            where,
            {name: target[where] for name, target in self.targets.items()},
            {name: mask[where] for name, mask in self.mask.items()},
            preprocess,
            self.augment,
            keep=int(np.prod(shape)) * len(used) <= self.in_memory,
            of_input=[name for name, task in self.tasks.items() if task.of_input],
            part=self.part,
            resized=self.decoded.of(images, shape, preprocess, used) if self.decoded is not None else None,
        )

    def labels(self, split: str) -> dict[str, tuple[Tensor, Tensor]]:
        """By task that has labels: the targets of a split, (n,) or (n, K), and which are there, bool (n,)."""
        where = torch.from_numpy(self.splits[split])
        return {name: (target[where], self.mask[name][where]) for name, target in self.targets.items()}

    def input_hashes(self, *splits: str) -> np.ndarray:
        """int64: the hashes of the images of these splits."""
        return self.examples.hashes[np.concatenate([self.splits[split] for split in splits])]


def load(node: DictConfig, tasks: Any, allow: list[str], cache: Path | None = None) -> Data:
    """The data set that `node` (resolved `cfg.dataset`) names, with the tasks that `tasks` selects.

    Arguments:
        tasks: "default", "all", a task's name or a list of names.
        allow: packages of the user's own that a `_target_` may name.
        cache: the folder where what was found out about files is kept.

    Raises ConfigError for an unknown task, a task whose labels are not there, a class too small to split, a class that is
    tested and not trained on, copies across splits, more labels asked for than there are, and a validation split without a
    label to choose the best epoch by.
    """
    common, family = check_dataset(with_reconstruction(node), "dataset")
    examples, splits, data_hash = read(common, family, allow, cache)
    augmentation(common.augment)
    chosen = select_tasks(tasks, common.tasks, list(common.default_tasks), examples.no_labels)
    columns = columns_of(common)
    train = labelled(examples, common, splits["train"])
    made: dict[str, Task] = {}
    for name in chosen:
        settings = common.tasks[name]
        if settings.primary is None:
            settings.primary = settings.kind != RECONSTRUCTION or len(chosen) == 1
        if name not in columns:
            made[name] = make_task(name, settings, None, None)
            continue
        check_column(examples, name, columns[name])
        check_seen(examples, splits, columns[name])
        column = examples.columns[columns[name]]
        made[name] = make_task(name, settings, column[train], examples.classes.get(columns[name]))
    encoded = {name: task.encode(examples.columns[columns[name]]) for name, task in made.items() if not task.of_input}
    everywhere = torch.ones(len(examples), dtype=torch.bool)
    mask = {name: everywhere if task.of_input else encoded[name][1] for name, task in made.items()}
    examples = copy.copy(examples)  # which is shared by all that load these data
    examples.notes = examples.notes + without_labels(made, mask, splits)
    return Data(
        examples,
        {**splits, "train": train},
        made,
        {name: target for name, (target, _) in encoded.items()},
        mask,
        {name: columns[name] for name in encoded},
        common.augment,
        data_hash,
        digest(examples.hashes[train], train),
        on_duplicate=common.on_duplicate,
    )


def with_tasks(node: DictConfig, where: str, allow: list[str]) -> DictConfig:
    """A data set's node with the tasks that its family finds in the data: what `tasks_of`, beside the family's function and
    with its settings, makes of those that are stated. Every data set has a reconstruction, too."""
    common, family = check_dataset(node, where)
    target, settings = keywords(OmegaConf.create(family), "dataset", where, allow)
    tasks_of = getattr(sys.modules[target.__module__], "tasks_of", None)
    if tasks_of is None:
        return with_reconstruction(node)
    stated: Any = OmegaConf.to_container(node.tasks, resolve=True)
    found = tasks_of(stated, **settings)
    filled = OmegaConf.masked_copy(node, [str(key) for key in node if key not in ("tasks", "default_tasks")])
    OmegaConf.set_struct(filled, False)
    filled.tasks, filled.default_tasks = found, list(common.default_tasks) or with_labels(found)
    return with_reconstruction(filled)


def finds_tasks(node: DictConfig, where: str, allow: list[str]) -> bool:
    """Whether the family of a data set finds tasks in the data."""
    return hasattr(sys.modules[find_target(node, "dataset", where, allow).__module__], "tasks_of")


def labelled(examples: Examples, common: DictConfig, train: np.ndarray) -> np.ndarray:
    """The training examples that `labels_per_class` or `label_fraction` keep, by the first task with one class each."""
    columns = columns_of(common).values()
    anchor = next((c for c in columns if c in examples.classes and examples.columns[c].ndim == 1), None)
    return subset(
        train,
        examples.columns[anchor] if anchor else None,
        common.labels_per_class,
        common.label_fraction,
        common.subset_seed,
        examples.classes.get(anchor or ""),
    )
