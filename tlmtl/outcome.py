"""What a finished run leaves: the best model is evaluated, and its rows, predictions, model and record are written."""

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from omegaconf import DictConfig
from torch import nn

from tlmtl import artifacts, hardware, identity, results
from tlmtl.assemble import Assembly
from tlmtl.data.dataset import Data
from tlmtl.data.streams import Stream
from tlmtl.evaluation import Predictions, evaluate, measure
from tlmtl.results import RunFolder
from tlmtl.tasks.base import Task
from tlmtl.training import Setup, State


def hashes(parts: Assembly) -> dict[str, Any]:
    """What a run stands on: source parameters, data, the labelled examples it trains on."""
    return {
        "source_hash": parts.source.hash if parts.source else None,
        "data_hash": parts.data.hash,
        "subset_hash": parts.data.subset_hash,
    }


def finish(
    cfg: DictConfig,
    folder: RunFolder,
    run_id: str,
    parts: Assembly,
    machine: hardware.Machine,
    made: Setup,
    state: State,
    memory: hardware.PeakMemory,
) -> nn.Module:
    """Evaluate the best model on validation, and on test for the only time; write all files, the status last."""
    model = made.model
    with results.timed(state.seconds, "eval"):
        sets = _said(parts, made)
    artifacts.write_predictions(folder.path / "predictions.parquet", sets)
    shape = made.streams["target"].shape()
    artifacts.write_model(folder.path / "model.safetensors", cfg, parts.encoder, parts.data, parts.source, model, shape)
    seconds, trained = state.seconds, parts.groups.trained()
    costs = {
        "steps": state.step,
        "examples_seen": state.examples,
        "train_seconds": seconds["train"],
        "eval_seconds": seconds["eval"],
        "source_seconds": parts.source.seconds if parts.source else None,
        "data_wait": seconds["wait"] / max(seconds["train"], 1e-9),
        "seconds_per_step": seconds["train"] / max(state.step, 1),
        "peak_memory_mb": memory.megabytes(made.device),
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_trained": trained,
    }
    own = {**hashes(parts), "skipped": parts.data.examples.skipped}
    shared = {**row(cfg, folder, run_id, "done"), **machine.plan, **costs, **own, **results.provenance()}
    folder.write_rows([shared | more for more in _measured(sets, parts)])
    folder.write_history(state.history)
    folder.update(
        status="done",
        finished=f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        best_step=state.best_step,
        stopped_early=state.stopped,
        costs=costs,
        hashes={**own, "further": {name: data.hash for name, data in parts.further.items()}},
        plan=machine.plan,
        loaded=vars(parts.report) if parts.report else None,
        versions=results.versions(),
        hardware=hardware.describe(),
        **results.provenance(),
    )
    if not cfg.output.keep_checkpoint:
        folder.remove_checkpoint()
    return model


def _said(parts: Assembly, made: Setup) -> dict[str, tuple[Data, Predictions]]:
    """What the model says about validation, test and the further test sets (`test:NAME`): each is read once, here."""

    def ask(data: Data, stream: Stream) -> tuple[Data, Predictions]:
        found = evaluate(made.model, stream, list(data.tasks), made.autocast, made.device, made.memory_format)
        return data, found

    preprocess = parts.encoder.preprocess
    sets = {"val": ask(parts.data, made.validation), "test": ask(parts.data, parts.data.stream("test", preprocess))}
    height, width = made.streams["target"].shape()[1:]
    as_trained = dataclasses.replace(
        preprocess, size=(height, width)
    )  # pictures of another shape, as `predict` has them
    for name, data in parts.further.items():
        sets[f"test:{name}"] = ask(data, data.stream("test", as_trained))
    return sets


def _measured(sets: Mapping[str, tuple[Data, Predictions]], parts: Assembly) -> Iterator[dict[str, Any]]:
    """By task, then by further test set and task, the cells of a row that say what was measured on what."""
    found = {s: {name: measure(task, said) for name, task in data.tasks.items()} for s, (data, said) in sets.items()}
    for name, task in parts.data.tasks.items():
        yield _task(task) | _metrics(task, "val", found["val"][name]) | _metrics(task, "test", found["test"][name])
    dataset = parts.cfg.composed.choices.get("dataset")
    for also, data in parts.further.items():
        about = {"dataset": f"{dataset}->{also}", "data_hash": data.hash, "skipped": data.examples.skipped}
        for name, task in data.tasks.items():
            yield _task(task) | about | _metrics(task, "test", found[f"test:{also}"][name])


def _task(task: Task) -> dict[str, Any]:
    return {"task": task.name, "kind": task.kind, "primary": task.primary}


def _metrics(task: Task, split: str, found: Mapping[str, float]) -> dict[str, float | None]:
    return {f"{split}/{metric}": found.get(metric) for metric in [*task.metrics, "loss"]}


def row(cfg: DictConfig, folder: RunFolder, run_id: str, status: str, error: str | None = None) -> dict[str, Any]:
    """The cells that say which run a row is of and what was set."""
    record = folder.record
    return {
        "run_id": run_id,
        "config_hash": record.get("config_hash"),
        "group_id": record.get("group_id"),
        "status": status,
        "error": error,
        "dataset": cfg.composed.choices.get("dataset"),
        "task": None,
        "kind": None,
        "primary": None,
        **identity.settings(cfg),
    }
