"""`term=[deep_supervision]`: the tasks' own losses on an intermediate layer too."""

from functools import partial

import torch
from torch import Tensor

from tlmtl.errors import ConfigError, nearest
from tlmtl.models.by_task import ByTask
from tlmtl.models.heads import LinearHead
from tlmtl.sharing.base import fresh
from tlmtl.terms.base import Context, Needs, Step, Term
from tlmtl.terms.setup import blank_output, chosen_tasks


class DeepSupervision(Term):
    """weight * the sum over tasks of the task's own loss, from a small head on an intermediate layer.

    Lee, Xie, Gallagher, Zhang & Tu 2015, "Deeply-Supervised Nets": companion objectives of hidden layers. Theirs is a squared
    hinge on every hidden layer that fades with training and stops below a threshold; here it is the loss that the task has
    at the model's end, on one layer, with a constant weight (0.3 is that of the auxiliary classifiers of Szegedy et al.
    2015, "Going Deeper with Convolutions").

    A head is a global average pooling and a linear layer. Each task has its own, on its own encoder where it has one. Missing
    labels give nothing. The tasks' weights (`dataset.tasks.<name>.weight`) and the weighting do not apply here. With missing
    labels and `train.accumulate`, pieces of a batch count by their examples, not by their labels.

    Arguments:
        weight: 0 or more.
        layer: one of the encoder's blocks; None for the middle one (of an even number the later).
        tasks: None for all, or a list of names. A reconstruction has no label to supervise with, and is left out.
    """

    def __init__(self, weight: float = 0.3, layer: str | None = None, tasks: list[str] | None = None) -> None:
        super().__init__()
        if weight < 0:
            raise ConfigError(f"'weight' of deep_supervision should not be negative. Found {weight}.")
        self.weight, self.layer, self.tasks = weight, layer, tasks
        self.heads = ByTask({})

    def setup(self, context: Context) -> None:
        blocks = context.encoder.blocks
        if self.layer is None:
            self.layer = blocks[len(blocks) // 2]
        if self.layer not in blocks:
            raise ConfigError(
                f"'layer' of deep_supervision names the unknown layer '{self.layer}'.{nearest(self.layer, blocks)} "
                f"This model has: {', '.join(blocks)}."
            )
        offered = [name for name, task in context.tasks.items() if not task.of_input]
        names = chosen_tasks("deep_supervision", self.tasks, context.tasks, offered, "a task with labels")
        self.needs = Needs(layers=(self.layer,))
        self.losses = {name: context.tasks[name].training_loss for name in names}
        blank = blank_output(context, (self.layer,))
        heads = {}
        for name in names:
            activation = blank.of(name).layers[self.layer]
            self.axis = _channel_axis(activation)
            size, outputs = activation.shape[self.axis], context.tasks[name].outputs
            heads[name] = fresh(name, partial(LinearHead, size, outputs))
        self.heads = ByTask(heads)

    def forward(self, step: Step) -> Tensor:
        assert self.layer is not None
        total = torch.zeros((), device=next(self.parameters()).device)
        for stream, output in step.outputs.items():
            part = step.batch[stream]
            for name, target in part.targets.items():
                if name in self.losses and name in output.heads:  # a task that has stopped early is not asked any more
                    activation = output.of(name).layers[self.layer]
                    said = self.heads[name](_pooled(activation.float(), self.axis))
                    total = total + self.losses[name](said, target, part.mask[name])
        return self.weight * total


def _channel_axis(activation: Tensor) -> int:
    """The axis of the channels, from the activation of a square image: a map (1, C, s, s) or (1, s, s, C), tokens (1, T, C)
    or a vector (1, C)."""
    if activation.ndim == 4:
        first, second, third = activation.shape[1:]
        return 3 if first == second != third else 1
    return activation.ndim - 1


def _pooled(activation: Tensor, axis: int) -> Tensor:
    """(n, C): the mean over all other axes."""
    moved = activation.movedim(axis, 1)
    return moved if moved.ndim == 2 else moved.flatten(2).mean(2)
