"""The large files of a run: what the model said (`predictions.parquet`) and the model itself (`model.safetensors`)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from tlmtl import files
from tlmtl.data.dataset import Data
from tlmtl.evaluation import Predictions
from tlmtl.models.encoder import Encoder
from tlmtl.models.source import SEEN, Source


def write_predictions(path: Path, data: Data, predictions: Mapping[str, Predictions]) -> None:
    """Columns split, id, task, target, output: class scores, or values in the target's own unit.

    A target is a class number or a value; metrics are pure functions of this file.
    """
    import pyarrow as pa
    from pyarrow import parquet

    tables = []
    for split, found in predictions.items():
        ids = [data.examples.ids[i] for i in data.splits[split]]
        for name, task in data.tasks.items():
            target = task.own_target(found.targets[name]).double()
            target[~found.mask[name]] = float("nan")
            output = task.own_unit(found.outputs[name])
            tables.append(
                pa.table(
                    {
                        "split": pa.array([split] * len(ids)),
                        "id": pa.array(ids),
                        "task": pa.array([name] * len(ids)),
                        "target": pa.array(target.numpy(), from_pandas=True),
                        "output": pa.array(list(output.numpy()), pa.list_(pa.float32())),
                    }
                )
            )
    files.write(path, lambda temporary: parquet.write_table(pa.concat_tables(tables), temporary))


def write_model(
    path: Path, cfg: DictConfig, encoder: Encoder, data: Data, source: Source | None, model: nn.Module
) -> None:
    """Parameters, and in the file's metadata (key `tlmtl`, JSON) what is needed to predict: the model's config,
    pre-processing, tasks with their classes and scales. The tensor `tlmtl.seen_inputs` holds hashes of every image that
    the parameters were trained on, its source's included, so that no later run is tested on one of them unawares."""
    from safetensors.torch import save_file

    seen = data.input_hashes("train")
    if source is not None and source.seen is not None:
        seen = np.union1d(seen, source.seen)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    tensors[SEEN] = torch.from_numpy(np.sort(seen))
    about: dict[str, Any] = {
        "model": OmegaConf.to_container(cfg.model, resolve=True),
        "sharing": OmegaConf.to_container(cfg.sharing, resolve=True),
        "channels": data.channels,
        "preprocess": encoder.preprocess.as_dict(),
        "tasks": {name: task.describe() for name, task in data.tasks.items()},
    }
    metadata = {"tlmtl": json.dumps(about, sort_keys=True)}  # one entry: safetensors writes several in any order
    files.write(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
