"""What a model says about a split, and the numbers that follow from it."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from tlmtl.data.feed import ahead
from tlmtl.data.streams import Stream
from tlmtl.models.encoder import evaluating
from tlmtl.sharing.base import Sharing
from tlmtl.tasks.base import Task

EVALUATION_BATCH = 256
NOTHING = 1e-6  # a constant predictor's loss that is that of equal labels: losses of other labels are around 1


@dataclass
class Predictions:
    """What a model said about a split: by task, outputs (n, outputs), encoded targets (n,) and which are there (n,)."""

    outputs: dict[str, Tensor]
    targets: dict[str, Tensor]
    mask: dict[str, Tensor]


def selection_score(task: Task, predictions: Predictions, metrics: Mapping[str, float]) -> float:
    """How well a task does on a split, for choosing an epoch: 1 - loss / loss of the best constant predictor; 0 is as good
    as that, 1 is perfect, -inf for a loss that is not finite, NaN where no example has a label.

    Where all labels are equal a constant is perfect, and a ratio would drown every other task: it is 1 - loss then.
    """
    there = predictions.mask[task.name]
    if not there.any():
        return math.nan
    if not math.isfinite(metrics["loss"]):
        return -math.inf
    constant = task.constant_loss(predictions.targets[task.name][there])
    return 1 - metrics["loss"] / (constant if constant > NOTHING else 1.0)


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
    model: Sharing,
    stream: Stream,
    tasks: Mapping[str, Task],
    autocast: Callable[[], AbstractContextManager],
    device: torch.device,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Predictions:
    """What `model` says about every example of `stream`, in order, in eval mode; modes are put back afterwards.

    A task of another data set may be among `tasks`: its head is asked, and no example has its label.
    """
    names = list(tasks)
    outputs: dict[str, Tensor] = {}
    targets: dict[str, Tensor] = {}
    nothing = torch.zeros(len(stream), dtype=torch.bool)
    parts = torch.arange(len(stream)).split(EVALUATION_BATCH)
    with evaluating(model):
        for part, _ in ahead(lambda indices: stream.part(indices).to(device, memory_format), parts, stream.lookahead):
            with autocast(), model.on(stream.part_name):
                heads = model(part.input, names).heads
            # into one block each: many small ones would keep the large ones between them from being used again
            for name in names:
                said, target = tasks[name].kept(heads[name].float(), part.targets.get(name, part.input))
                outputs.setdefault(name, torch.empty(len(stream), *said.shape[1:]))[part.index] = said.cpu()
                if name in stream.of_input and target is not None:
                    targets.setdefault(name, torch.empty(len(stream), *target.shape[1:]))[part.index] = target.cpu()
    targets = {n: targets.get(n, stream.targets.get(n, torch.zeros(len(stream), dtype=torch.int64))) for n in names}
    return Predictions(outputs, targets, {n: stream.mask.get(n, nothing) for n in names})
