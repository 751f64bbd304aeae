"""What a model says about a split, and the numbers that follow from it."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tlmtl.data.feed import ahead
from tlmtl.data.streams import Stream
from tlmtl.tasks.base import Task

EVALUATION_BATCH = 256


@dataclass
class Predictions:
    """What a model said about a split: by task, outputs (n, outputs), encoded targets (n,) and which are there (n,)."""

    outputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    mask: dict[str, Tensor]


def selection_score(
    tasks: Mapping[str, Task], predictions: Predictions, metrics: Mapping[str, Mapping[str, float]]
) -> float:
    """What the best model is chosen by: the mean over primary tasks of 1 - loss / loss of the best constant predictor."""
    scores = []
    for name, task in tasks.items():
        there = predictions.mask[name]
        if (task.primary or not any(t.primary for t in tasks.values())) and there.any():
            constant = task.constant_loss(predictions.targets[name][there])
            scores.append(1 - metrics[name]["loss"] / max(constant, 1e-12))
    return sum(scores) / len(scores) if scores else -math.inf


def measure(task: Task, predictions: Predictions) -> dict[str, float]:
    """A task's loss (that which is trained on, class weights included) and metrics on the examples that have its label; {}
    when none has."""
    there = predictions.mask[task.name]
    if not there.any():
        return {}
    output, target = predictions.outputs[task.name][there], predictions.targets[task.name][there]
    loss = float(task.loss(output, target, torch.ones(len(target))))
    return {"loss": loss, **task.measure(task.own_unit(output), task.own_target(target))}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    stream: Stream,
    tasks: Sequence[str],
    autocast: Callable[[], AbstractContextManager],
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Predictions:
    """What `model` says about every example of `stream`, in order, in eval mode; modes are put back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    names = list(tasks)
    outputs: dict[str, Tensor] = {}
    parts = torch.arange(len(stream)).split(EVALUATION_BATCH)
    for part, _ in ahead(lambda indices: stream.part(indices).to(device, memory_format), parts, stream.lookahead):
        with autocast():
            heads = model(part.input, names).heads
        # into one block each: many small ones would keep the large ones between them from being used again
        for name in names:
            said = heads[name].float().cpu()
            outputs.setdefault(name, torch.empty(len(stream), *said.shape[1:]))[part.index] = said
    for module, training in modes:
        module.training = training
    return Predictions(outputs, {n: stream.targets[n] for n in names}, {n: stream.mask[n] for n in names})
