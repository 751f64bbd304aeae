"""From `cfg.dataset` to streams: examples of a family, their splits, the labelled subset, the tasks, and all hashes."""

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from tlmtl.config import build, check_dataset, keywords
from tlmtl.data import duplicates, known
from tlmtl.data.augment import augmentation
from tlmtl.data.examples import Examples
from tlmtl.data.splits import divide_copies
from tlmtl.data.streams import Stream
from tlmtl.data.subset import subset
from tlmtl.errors import ConfigError, nearest
from tlmtl.preprocess import Preprocess
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

    @property
    def channels(self) -> int:
        return self.examples.images.channels

    def stream(self, split: str, preprocess: Preprocess) -> Stream:
        """A split as a model takes it. All splits together are kept in memory, resized, or none of them is."""
        where = torch.from_numpy(self.splits[split])
        one = torch.from_numpy(next(iter(self.splits.values()))[:1])
        size = self.examples.images.read(one, preprocess).numel() * sum(map(len, self.splits.values()))
        return Stream(
            split,
            self.examples.images,
            where,
            {name: target[where] for name, target in self.targets.items()},
            {name: mask[where] for name, mask in self.mask.items()},
            preprocess,
            self.augment,
            keep=size <= self.in_memory,
        )

    def labels(self, split: str) -> dict[str, tuple[Tensor, Tensor]]:
        """By task: the targets of a split, (n,) or (n, K), and which are there, bool (n,)."""
        where = torch.from_numpy(self.splits[split])
        return {name: (self.targets[name][where], self.mask[name][where]) for name in self.tasks}

    def input_hashes(self, *splits: str) -> np.ndarray:
        """int64: the hashes of the images of these splits."""
        return self.examples.hashes[np.concatenate([self.splits[split] for split in splits])]


def load(node: DictConfig, tasks: Any, allow: list[str], cache: Path | None = None) -> Data:
    """The data set that `node` (resolved `cfg.dataset`) names, with the tasks that `tasks` selects.

    Arguments:
        tasks: "default", "all", a task's name or a list of names.
        allow: packages of the user's own that a `_target_` may name.
        cache: the folder where what was found out about files is kept.

    Raises ConfigError for an unknown task, a class too small to split, a class that is tested and not trained on, copies
    across splits, more labels asked for than there are.
    """
    common, family = check_dataset(node, "dataset")
    shared = {**shared_settings(common), "fold": common.fold, "on_duplicate": common.on_duplicate}
    examples, splits, data_hash = _examples(
        json.dumps([plain(family), shared], sort_keys=True), tuple(allow), _stamp(family), cache
    )
    augmentation(common.augment)
    chosen = select_tasks(tasks, list(common.tasks), list(common.default_tasks))
    columns = {name: common.tasks[name].target or name for name in common.tasks}
    for name, column in columns.items():
        if column not in examples.columns:
            raise ConfigError(
                f"'dataset.tasks.{name}' reads the column '{column}', which is not there."
                f"{nearest(column, list(examples.columns))} Found: {', '.join(examples.columns)}."
            )
    train = labelled(examples, common, splits["train"])
    made = {}
    for name in chosen:
        check_seen(examples, splits, columns[name])
        column = examples.columns[columns[name]]
        made[name] = make_task(name, common.tasks[name], column[train], examples.classes.get(columns[name]))
    encoded = {name: task.encode(examples.columns[columns[name]]) for name, task in made.items()}
    return Data(
        examples,
        {**splits, "train": train},
        made,
        {name: target for name, (target, _) in encoded.items()},
        {name: mask for name, (_, mask) in encoded.items()},
        {name: columns[name] for name in made},
        common.augment,
        data_hash,
        digest(examples.hashes[train], train),
        on_duplicate=common.on_duplicate,
    )


def with_tasks(node: DictConfig, where: str, allow: list[str]) -> DictConfig:
    """A data set's node with the tasks that its family finds in the data: what `tasks_of`, beside the family's function and
    with its settings, makes of those that are stated. Families without it come back as they are."""
    common, family = check_dataset(node, where)
    target, settings = keywords(OmegaConf.create(family), "dataset", where, allow)
    tasks_of = getattr(sys.modules[target.__module__], "tasks_of", None)
    if tasks_of is None:
        return node
    stated: Any = OmegaConf.to_container(node.tasks, resolve=True)
    found = tasks_of(stated, **settings)
    filled = OmegaConf.masked_copy(node, [str(key) for key in node if key not in ("tasks", "default_tasks")])
    OmegaConf.set_struct(filled, False)
    filled.tasks, filled.default_tasks = found, list(common.default_tasks) or list(found)
    return filled


def shared_settings(common: DictConfig) -> dict[str, Any]:
    """What every family is given of the common settings, if it asks for it."""
    kinds = {common.tasks[name].target or name: common.tasks[name].kind for name in common.tasks}
    return {**{key: common[key] for key in ("split_seed", "val_fraction", "test_fraction")}, "kinds": kinds}


def labelled(examples: Examples, common: DictConfig, train: np.ndarray) -> np.ndarray:
    """The training examples that `labels_per_class` or `label_fraction` keep, by the first task with one class each."""
    columns = [common.tasks[name].target or name for name in common.tasks]
    anchor = next((c for c in columns if c in examples.classes and examples.columns[c].ndim == 1), None)
    return subset(
        train,
        examples.columns[anchor] if anchor else None,
        common.labels_per_class,
        common.label_fraction,
        common.subset_seed,
        examples.classes.get(anchor or ""),
    )


def check_seen(examples: Examples, splits: dict[str, np.ndarray], column: str) -> None:
    """Raises ConfigError for a class in val or test that train has no example of."""
    labels = examples.columns[column]
    if column not in examples.classes or labels.ndim > 1:
        return
    for split in ("val", "test"):
        stray = np.setdiff1d(labels[splits[split]], labels[splits["train"]])
        if len(stray := stray[stray >= 0]):
            names = ", ".join(examples.classes[column][i] for i in stray[:5])
            raise ConfigError(
                f"The {split} split has classes of '{column}' that the training split has no example of: {names}"
                f"{', ...' if len(stray) > 5 else ''}. Add training examples of them, leave them out, or (where the splits "
                "are cut for you) try another dataset.split_seed."
            )


def select_tasks(wanted: Any, known: list[str], default: list[str]) -> list[str]:
    """Task names from "default", "all", a name or a list of names, in the order of the data set."""
    if wanted == "default":
        names = default or known[:1]
    elif wanted == "all":
        names = known
    else:
        names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"Unknown task '{name}'.{nearest(str(name), known)} This data set has: {', '.join(known)} "
                "(tasks=default, tasks=all or tasks=[a,b])."
            )
    if not names:
        raise ConfigError(f"'tasks' selects no task. This data set has: {', '.join(known)}.")
    return [name for name in known if name in names]


def plain(node: Any) -> Any:
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else {k: plain_value(v) for k, v in node.items()}


def plain_value(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


@lru_cache(maxsize=4)  # the jobs of a sweep mostly share their data; the check before a sweep reads it once
def _examples(
    key: str, allow: tuple[str, ...], stamp: str, cache: Path | None
) -> tuple[Examples, dict[str, np.ndarray], str]:
    family, shared = json.loads(key)
    fold, on_duplicate = shared.pop("fold"), shared.pop("on_duplicate")
    examples: Examples = build(family, "dataset", allow=list(allow), cache=cache, **shared)
    duplicates.check_setting(on_duplicate)
    fractions = shared["val_fraction"], shared["test_fraction"]
    splits = divide_copies(examples, *fractions, shared["split_seed"], fold, on_duplicate)
    facts = examples.images.facts
    found = duplicates.report(
        examples.hashes, facts.look if facts is not None else None, splits, examples.ids, on_duplicate
    )
    examples.notes += found
    columns = [examples.columns[name] for name in sorted(examples.columns)]
    names = json.dumps([examples.classes, sorted(examples.columns)], sort_keys=True).encode()
    return examples, splits, digest(examples.hashes, *columns, *splits.values(), np.frombuffer(names, dtype=np.uint8))


def _stamp(family: dict[str, Any]) -> str:
    """Names, sizes and times of the files at `root` and `path`, and of those that the family says it reads (`files_of`), so
    that what changed is read again."""
    files_of = getattr(sys.modules.get(str(family.get("_target_")).rpartition(".")[0]), "files_of", None)
    paths = files_of(**{k: v for k, v in family.items() if k != "_target_"}) if files_of else []
    for place in filter(None, (family.get("root"), family.get("path"))):
        top = os.path.expanduser(str(place))
        paths += [top, *known.below(top)]
    found = [(os.fsencode(path), *known.stamp(path)) for path in paths]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def digest(*arrays: np.ndarray) -> str:
    """A hash of shapes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]
