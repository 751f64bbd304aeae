"""From `cfg.dataset` to streams: examples of a family, their splits, the labelled subset, the tasks, and all hashes."""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from tlmtl.config import build, check_dataset
from tlmtl.data.augment import augmentation
from tlmtl.data.examples import SPLITS, Examples
from tlmtl.data.splits import cut, subset
from tlmtl.data.streams import Stream
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
    augment: str
    hash: str  # of images, labels and splits
    subset_hash: str  # of the training examples that are kept

    @property
    def channels(self) -> int:
        return self.examples.images.channels

    def stream(self, split: str, preprocess: Preprocess) -> Stream:
        where = torch.from_numpy(self.splits[split])
        return Stream(
            split,
            self.examples.images,
            where,
            {name: target[where] for name, target in self.targets.items()},
            {name: mask[where] for name, mask in self.mask.items()},
            preprocess,
            self.augment,
        )

    def labels(self, split: str) -> dict[str, tuple[Tensor, Tensor]]:
        """By task: the targets of a split, (n,) or (n, K), and which are there, bool (n,)."""
        where = torch.from_numpy(self.splits[split])
        return {name: (self.targets[name][where], self.mask[name][where]) for name in self.tasks}

    def input_hashes(self, *splits: str) -> np.ndarray:
        """int64: the hashes of the images of these splits."""
        return self.examples.hashes[np.concatenate([self.splits[split] for split in splits])]


def load(node: DictConfig, tasks: Any, allow: list[str]) -> Data:
    """The data set that `node` (resolved `cfg.dataset`) names, with the tasks that `tasks` selects.

    Arguments:
        tasks: "default", "all", a task's name or a list of names.
        allow: packages of the user's own that a `_target_` may name.

    Raises ConfigError for an unknown task, a class too small to split, more labels asked for than there are.
    """
    common, family = check_dataset(node, "dataset")
    shared = {key: common[key] for key in ("split_seed", "val_fraction", "test_fraction")}
    examples, splits, data_hash = _examples(
        json.dumps([plain(family), shared], sort_keys=True), tuple(allow), _stamp(family)
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
    anchor = next((columns[n] for n in common.tasks if columns[n] in examples.classes), None)
    train = subset(
        splits["train"],
        examples.columns[anchor] if anchor else None,
        common.labels_per_class,
        common.label_fraction,
        common.subset_seed,
        examples.classes.get(anchor or ""),
    )
    made = {}
    for name in chosen:
        column = examples.columns[columns[name]]
        made[name] = make_task(name, common.tasks[name], column[train], examples.classes.get(columns[name]))
    encoded = {name: task.encode(examples.columns[columns[name]]) for name, task in made.items()}
    return Data(
        examples,
        {**splits, "train": train},
        made,
        {name: target for name, (target, _) in encoded.items()},
        {name: mask for name, (_, mask) in encoded.items()},
        common.augment,
        data_hash,
        _digest(examples.hashes[train], train),
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
def _examples(key: str, allow: tuple[str, ...], stamp: str) -> tuple[Examples, dict[str, np.ndarray], str]:
    family, shared = json.loads(key)
    examples: Examples = build(family, "dataset", allow=list(allow), **shared)
    anchor = next((column for column in examples.classes), None)
    labels = examples.columns[anchor] if anchor else None
    names = examples.classes.get(anchor or "")
    val, test, seed = shared["val_fraction"], shared["test_fraction"], shared["split_seed"]
    if examples.split is None:
        splits = cut(labels, val, test, seed, len(examples), names)
    else:
        splits = {name: np.flatnonzero(examples.split == name) for name in SPLITS}
        if not len(splits["test"]) or not len(splits["val"]):  # what is missing is cut from train
            train = splits["train"]
            parts = cut(
                labels[train] if labels is not None else None,
                0 if len(splits["val"]) else val,
                0 if len(splits["test"]) else test,
                seed,
                len(train),
                names,
            )
            splits = {
                name: train[parts[name]] if name == "train" or not len(splits[name]) else splits[name]
                for name in SPLITS
            }
    for name in SPLITS:
        if not len(splits[name]):
            raise ConfigError(f"The {name} split is empty: raise 'dataset.{name}_fraction', or add examples.")
    columns = [examples.columns[name] for name in sorted(examples.columns)]
    return examples, splits, _digest(examples.hashes, *columns, *splits.values())


def _stamp(family: dict[str, Any]) -> str:
    """Names, sizes and times of the files in the folder `root`, so that a folder that changed is read again."""
    root = family.get("root")
    files = sorted(Path(root).expanduser().rglob("*")) if root else []
    found = [(str(path), path.lstat().st_size, path.lstat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]
