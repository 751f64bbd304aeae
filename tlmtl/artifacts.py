"""The large files of a run: what the model said (`predictions.parquet`) and the model itself (`model.safetensors`)."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from tlmtl import files
from tlmtl.data.dataset import Data
from tlmtl.evaluation import Predictions
from tlmtl.models.encoder import Encoder
from tlmtl.models.source import CHOSEN, SEEN, Source


def write_predictions(path: Path, sets: Mapping[str, tuple[Data, Predictions]]) -> None:
    """Columns split, id, task, target, output: scores of classes or labels, or values in the target's own unit.

    `sets` holds, by split, the data set that it is a split of and what was said about it; `test:NAME` is the test split of
    the further data set NAME. A target is a class number or a value, null where it is missing. A run with a multilabel
    task has a column `targets` more: a list of 0 and 1, one for each label (null for a label not known; no list where none
    is), while `target` is null; for tasks of other kinds `targets` is null. Metrics are pure functions of this file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    several = any(target.ndim > 1 for _, found in sets.values() for target in found.targets.values())
    tables = []
    for split, (data, found) in sets.items():
        names = [data.examples.ids[i] for i in data.splits[split.split(":")[0]]]
        ids = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in names]
        for name, task in data.tasks.items():
            output = task.own_unit(found.outputs[name])
            target = _listed(task.own_target(found.targets[name]), found.mask[name])
            many = found.targets[name].ndim > 1
            columns = {
                "split": pa.array([split] * len(ids)),
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
    data: Data,
    source: Source | None,
    model: nn.Module,
    shape: tuple[int, ...],
) -> None:
    """Parameters, and in the file's metadata (key `tlmtl`, JSON) what is needed to predict: the model's config,
    pre-processing, `shape` (C, H, W) of an input, tasks with their classes and scales. The tensors `tlmtl.seen_inputs` and
    `tlmtl.chosen_inputs` hold hashes of every image that the parameters were trained on, and chosen by, their source's
    included, so that no later run is tested on one of them unawares."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    for key, mine, theirs in (
        (SEEN, data.input_hashes("train"), source.seen if source else None),
        (CHOSEN, data.input_hashes("val"), source.chosen if source else None),
    ):
        tensors[key] = torch.from_numpy(np.sort(mine if theirs is None else np.union1d(mine, theirs)))
    about: dict[str, Any] = {
        "model": OmegaConf.to_container(cfg.model, resolve=True),
        "sharing": OmegaConf.to_container(cfg.sharing, resolve=True),
        "channels": data.channels,
        "shape": list(shape),
        "preprocess": encoder.preprocess.as_dict(),
        "tasks": {name: task.describe() for name, task in data.tasks.items()},
    }
    metadata = {"tlmtl": json.dumps(about, sort_keys=True)}  # one entry: safetensors writes several in any order
    files.write(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
