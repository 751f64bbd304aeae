"""The large files of a run: what the model said (`predictions.parquet`) and the model itself (`model.safetensors`)."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from tlmtl import files
from tlmtl.data.dataset import Data
from tlmtl.evaluation import Predictions
from tlmtl.models.digest import hash_state
from tlmtl.models.encoder import Encoder
from tlmtl.models.heads import NeighbourHead
from tlmtl.models.saved import backbone_path, holds
from tlmtl.models.source import CHOSEN, PREFIX, SEEN, Source
from tlmtl.sharing.base import Sharing
from tlmtl.tasks.base import Task


@dataclass
class Said:
    """What a model said about one split of one data set; the split `test:NAME` is the test split of a further one."""

    split: str
    data: Data
    predictions: Predictions
    tasks: Mapping[str, Task]  # those whose heads were asked; not all need be tasks of the data set


def write_predictions(path: Path, sets: Sequence[Said]) -> None:
    """Columns split, id, task, target, output: scores of classes or labels, values in the target's own unit, or how far a
    reconstruction is from its image (root mean square).

    A target is a class number or a value, null where it is missing. A run with a multilabel task or a reconstruction has a
    column `targets` more: a list of 0 and 1, one for each label (null for a label not known; no list where none is), or the
    image's mean and mean square; `target` is then null, and for tasks of other kinds `targets` is null. The head of another
    data set that was asked (for a fusion) has no targets here. Metrics are pure functions of this file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    several = any(target.ndim > 1 for one in sets for target in one.predictions.targets.values())
    tables = []
    for one in sets:
        names, found = [one.data.ids[i] for i in one.data.splits[one.split.split(":")[0]]], one.predictions
        ids = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]
        for name, task in one.tasks.items():
            output = task.own_unit(found.outputs[name])
            target = _listed(task.own_target(found.targets[name]), found.mask[name])
            many = found.targets[name].ndim > 1
            columns = {
                "split": pa.array([one.split] * len(ids)),
                "id": pa.array(ids),
                "task": pa.array([name] * len(ids)),
                "target": pa.array([None] * len(ids) if many else target, pa.float64()),
                "output": pa.array(list(output.numpy()), pa.list_(pa.float64())),
            }
            if several:
                columns["targets"] = pa.array(target if many else [None] * len(ids), pa.list_(pa.float32()))
            tables.append(pa.table(columns))
    files.write(path, lambda temporary: parquet.write_table(pa.concat_tables(tables), temporary))


def _listed(target: Tensor, there: Tensor) -> list[Any]:
    """Targets (n,) or (n, K) as numbers or lists of them, None for what is missing: there (n,), or NaN for one entry."""

    def known(value: Any) -> Any:
        return [known(one) for one in value] if isinstance(value, list) else None if math.isnan(value) else value

    return [known(value) if is_there else None for value, is_there in zip(target.tolist(), there.tolist(), strict=True)]


def write_model(
    path: Path,
    cfg: DictConfig,
    encoder: Encoder,
    data: Mapping[str, Data],
    source: Source | None,
    model: Sharing,
    shapes: Mapping[str, tuple[int, ...]],
    backbone: str | None = None,
) -> None:
    """Parameters, and in the file's metadata (key `tlmtl`, JSON) what is needed to predict: the configs of model, sharing and
    heads, pre-processing, `shape` (C, H, W) of an input, `shapes` where those of a joint data set's parts differ, tasks, and
    `parts`, the tasks of each part of a joint data set whose parts have batch norm statistics of their own; `heads`
    tells of those that store examples. The tensors `tlmtl.seen_inputs` and `tlmtl.chosen_inputs` hold hashes of every image
    that the parameters were trained on, and chosen by, their source's included, so that no later run is tested on one of them
    unawares.

    Arguments:
        backbone: the hash of a file that `write_backbone` wrote beside the run's folder: the backbone is not written again, and
            `backbone` in the metadata says which it is.
    """
    state = {name: one for name, one in model.state_dict().items() if not (backbone and name.startswith(PREFIX))}
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    for key, split, theirs in (
        (SEEN, "train", source.seen if source else None),
        (CHOSEN, "val", source.chosen if source else None),
    ):
        mine = np.concatenate([one.input_hashes(split) for one in data.values()])
        tensors[key] = torch.from_numpy(np.sort(mine if theirs is None else np.union1d(mine, theirs)))
    about: dict[str, Any] = {
        "model": OmegaConf.to_container(cfg.model, resolve=True),
        "sharing": OmegaConf.to_container(cfg.sharing, resolve=True),
        "head": OmegaConf.to_container(cfg.head, resolve=True),
        "channels": next(iter(data.values())).channels,
        "shape": list(next(iter(shapes.values()))),
        "shapes": {part: list(shape) for part, shape in shapes.items()} if len(set(shapes.values())) > 1 else {},
        "preprocess": encoder.preprocess.as_dict(),
        "tasks": {name: task.describe() for one in data.values() for name, task in one.tasks.items()},
        "parts": {} if model.statistics is None else {name: list(one.tasks) for name, one in data.items()},
    }
    stored = {name: head.describe() for name in model.heads if isinstance(head := model.heads[name], NeighbourHead)}
    if stored:
        about["heads"] = stored
    if backbone:
        about["backbone"] = backbone
    metadata = {"tlmtl": json.dumps(about, sort_keys=True)}  # one entry: safetensors writes several in any order
    _save(path, tensors, metadata)


def write_backbone(sweep: Path, model: Sharing) -> str:
    """The backbone that runs of a sweep have in common, once for all: `backbones/<hash>.safetensors`. Returns the hash."""
    state = {
        name: one.detach().cpu().contiguous() for name, one in model.state_dict().items() if name.startswith(PREFIX)
    }
    found = hash_state(state)
    path = backbone_path(sweep, found)
    if not holds(path, found):
        path.parent.mkdir(exist_ok=True)
        _save(path, state, None)
    return found


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    from safetensors.torch import save_file

    files.write(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
