"""What a finished run leaves: the best model is evaluated, and its rows, predictions, model and record are written."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from omegaconf import DictConfig
from torch import nn

from tlmtl import artifacts, hardware, identity, results
from tlmtl.artifacts import Said
from tlmtl.assemble import Assembly
from tlmtl.data.dataset import Data
from tlmtl.data.parts import together
from tlmtl.data.streams import Stream
from tlmtl.evaluation import evaluate, measure
from tlmtl.features.frozen import Frozen
from tlmtl.fusion import TASK as FUSED
from tlmtl.fusion import fused_metrics
from tlmtl.results import RunFolder
from tlmtl.tasks.base import Task
from tlmtl.training import Setup, State


def hashes(parts: Assembly) -> dict[str, Any]:
    """What a run stands on: source parameters, data, the labelled examples it trains on."""
    return {
        "source_hash": parts.source.hash if parts.source else None,
        "data_hash": together(data.hash for data in parts.data.values()),
        "subset_hash": together(data.subset_hash for data in parts.data.values()),
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
    frozen: Frozen,
    backbone: str | None = None,
    made_by: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Evaluate the best model on validation, and on test for the only time; write all files, the status last.

    Arguments:
        backbone: the hash of the file that its parameters are in already (`artifacts.write_backbone`); None to write all.
        made_by: `results.provenance()`, where it was asked for already.
    """
    made_by = made_by or results.provenance()
    model = made.model
    with results.timed(state.seconds, "eval"):
        sets = _said(parts, made, frozen)
    artifacts.write_predictions(folder.path / "predictions.parquet", sets)
    shapes = {name: stream.shape() for name, stream in made.streams.items()}
    artifacts.write_model(
        folder.path / "model.safetensors", cfg, parts.encoder, parts.data, parts.source, model, shapes, backbone
    )
    seconds, trained = state.seconds, parts.groups.trained()
    plan = {**machine.plan, "engine": frozen.engine}
    costs = {
        "steps": state.step,
        "examples_seen": state.examples,
        "train_seconds": seconds["train"],
        "eval_seconds": seconds["eval"],
        "features_seconds": frozen.seconds if frozen.engine else None,
        "source_seconds": parts.source.seconds if parts.source else None,
        "data_wait": seconds["wait"] / max(seconds["train"], 1e-9),
        "seconds_per_step": seconds["train"] / max(state.step, 1),
        "peak_memory_mb": memory.megabytes(made.device),
        "parameters": sum(p.numel() for p in model.parameters()),
        "parameters_trained": trained,
    }
    own = {**hashes(parts), "skipped": sum(data.examples.skipped for data in parts.data.values())}
    shared = {**row(cfg, folder, run_id, "done"), **plan, **costs, **own, **made_by}
    folder.write_rows([shared | more for more in _measured(sets, parts, state)])
    folder.write_history(state.history)
    folder.update(
        status="done",
        finished=f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        best_step=next(iter(state.best_step.values())) if len(made.branches) == 1 else state.best_step,
        best_score=sum(state.best_score.values()) / len(state.best_score),  # what chose the epochs
        stopped_early=bool(state.stopped) if len(made.branches) == 1 else state.stopped,
        costs=costs,
        hashes={**own, "further": {name: data.hash for name, data in parts.further.items()}},
        plan=plan,
        loaded=vars(parts.report) if parts.report else None,
        versions=results.versions(),
        hardware=hardware.describe(),
        **made_by,
    )
    if not cfg.output.keep_checkpoint:
        folder.remove_checkpoint()
    return model


def _said(parts: Assembly, made: Setup, frozen: Frozen) -> list[Said]:
    """What the model says about validation, test and the further test sets (`test:NAME`): each is read once, here."""
    fused = {name: parts.tasks[name] for name in parts.fusion.tasks} if parts.fusion else {}

    def ask(split: str, data: Data, stream: Stream) -> Said:
        stream = frozen.stream(stream, data, split.split(":")[0])
        asked = {**data.tasks, **fused} if fused.keys() & data.tasks.keys() else data.tasks
        found = evaluate(made.model, stream, asked, made.autocast, made.device, made.memory_format)
        return Said(split, data, found, asked)

    preprocess = parts.encoder.preprocess
    sets = [ask("val", data, made.validation[name]) for name, data in parts.data.items()]
    sets += [ask("test", data, data.stream("test", preprocess)) for data in parts.data.values()]
    if not parts.further:
        return sets
    height, width = next(iter(made.streams.values())).shape()[1:]
    as_trained = dataclasses.replace(
        preprocess, size=(height, width)
    )  # pictures of another shape, as `predict` has them
    return sets + [ask(f"test:{name}", data, data.stream("test", as_trained)) for name, data in parts.further.items()]


def _measured(sets: Sequence[Said], parts: Assembly, state: State) -> Iterator[dict[str, Any]]:
    """By task, then by fused task, then by further test set and task, the cells of a row that say what was measured."""
    said = {(one.split, id(one.data)): one for one in sets}
    dataset = parts.cfg.composed.choices.get("dataset")
    for data in parts.data.values():
        val, test = said["val", id(data)], said["test", id(data)]
        own = {"data_hash": data.hash, "subset_hash": data.subset_hash}  # of the part, so that other runs of it compare
        for task in data.tasks.values():
            found = {one.split: measure(task, one.predictions) for one in (val, test)}
            yield (
                _task(task, state) | own | _metrics(task, "val", found["val"]) | _metrics(task, "test", found["test"])
            )
        splits = {"val": val.predictions, "test": test.predictions}
        for name, fused in fused_metrics(parts.fusion, parts.tasks, splits).items():
            task = parts.tasks[name]
            cells = [cell for split, values in fused.items() for cell in _metrics(task, split, values).items()]
            yield {"task": FUSED.format(name), "kind": task.kind, "primary": False, **own, **dict(cells)}
    for also, data in parts.further.items():
        about = {"dataset": f"{dataset}->{also}", "data_hash": data.hash, "skipped": data.examples.skipped}
        for task in data.tasks.values():
            there = measure(task, said[f"test:{also}", id(data)].predictions)
            yield _task(task, state) | about | _metrics(task, "test", there)


def _task(task: Task, state: State) -> dict[str, Any]:
    about = {"task": task.name, "kind": task.kind, "primary": task.primary}
    return {**about, "labels_seen": state.labels.get(task.name, 0), "chosen": state.chosen.get(task.name)}


def _metrics(task: Task, split: str, found: Mapping[str, float]) -> dict[str, float | None]:
    return {f"{split}/{metric}": found.get(metric) for metric in [*task.metrics, "loss"]}


def row(cfg: DictConfig, folder: RunFolder, run_id: str, status: str, error: str | None = None) -> dict[str, Any]:
    """The cells that say which run a row is of and what was set."""
    record = folder.record
    return {
        "run_id": run_id,
        "config_hash": record.get("config_hash"),
        "group_id": record.get("group_id"),
        "baseline_id": record.get("baseline_id"),
        "status": status,
        "error": error,
        "dataset": cfg.composed.choices.get("dataset"),
        "task": None,
        "kind": None,
        "primary": None,
        **identity.settings(cfg),
    }
