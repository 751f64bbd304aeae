"""What is exported: uint8 images in, by task what `tlmtl predict` says of them out; and what that is in words.

Scaling and normalisation are in the model; reading, resizing and cropping a picture are the caller's, by the description.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tlmtl.models.by_task import ByTask
from tlmtl.predict.model import Trained
from tlmtl.preprocess import Normalize
from tlmtl.sharing.base import Sharing
from tlmtl.tasks.base import Task

SAYS = {  # by kind of task, how the numbers of its head become those for people, and what these are
    "classification": (lambda output: output.softmax(1), "probabilities of the classes, which sum to 1"),
    "multilabel": (lambda output: output.sigmoid(), "a probability for each label"),
    "regression": (lambda output: output.squeeze(1), "the value, in the target's own unit"),
    "reconstruction": (lambda output: output.squeeze(1), "how far the reconstruction is from the normalised image: root "
                       "mean squared error"),
}  # fmt: skip
RAW = {
    "classification": "scores of the classes, before softmax",
    "multilabel": "a score for each label, before sigmoid",
    "regression": "(value - mean) / std",
    "reconstruction": "the normalised image again, (batch, channels, height, width)",
}


def say(task: Task, output: Tensor, inputs: Tensor) -> Tensor:
    """What the model says about a task: (n, classes) or (n,).

    Arguments:
        output: of the task's head.
        inputs: (n, C, H, W), normalised.
    """
    return SAYS[task.kind][0](task.own_unit(task.kept(output, inputs)[0]))


def said(trained: Trained, images: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
    """By task, what the run's own model says about uint8 images (n, C, H, W): what an exported one is compared with."""
    found: dict[str, Tensor] = {}
    with torch.inference_mode():
        inputs = Normalize(trained.preprocess)(images)
        for part, names in asked_by_part(trained, tasks).items():
            with trained.model.on(part):
                heads = trained.model(inputs, names).heads
            found |= {name: say(trained.tasks[name], output, inputs) for name, output in heads.items()}
    return {name: found[name] for name in tasks}


class Served(nn.Module):
    """uint8 images (n, C, H, W) -> by task, what `say` makes of its head's output.

    Of a model whose batch norms have statistics for several parts there is a copy for each part, with the same parameters.
    Encoders, heads and other modules of tasks that are not asked for are left out where nothing asked for needs them.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, trained: Trained, tasks: Sequence[str]) -> None:
        super().__init__()
        normalize = Normalize(trained.preprocess)
        self.register_buffer("scale", normalize.scale)
        self.register_buffer("shift", normalize.shift)
        self.tasks = {name: trained.tasks[name] for name in tasks}
        self.asked = list(asked_by_part(trained, tasks).values())
        self.models = nn.ModuleList(
            pruned(trained, names, part) for part, names in asked_by_part(trained, tasks).items()
        )
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        inputs = torch.addcmul(self.shift, images.float(), self.scale)
        heads: dict[str, Tensor] = {}
        for model, names in zip(self.models, self.asked, strict=True):
            heads |= model(inputs, names).heads
        return {name: say(task, heads[name], inputs) for name, task in self.tasks.items()}


def asked_by_part(trained: Trained, tasks: Sequence[str]) -> dict[str, list[str]]:
    """By part of a joint data set that has any of `tasks`, those of them that it has, in the run's order."""
    found = {part: [name for name in names if name in tasks] for part, names in trained.parts.items()}
    return {part: names for part, names in found.items() if names}


def pruned(trained: Trained, tasks: Sequence[str], part: str) -> Sharing:
    """A copy of the model, with the same parameters and the batch norm statistics of `part` in place, without the modules
    of single tasks (heads, encoders, gates) that `tasks` do not need."""
    with trained.model.on(part):
        shared: dict[int, Any] = {id(one): one for one in trained.model.parameters()}
        model: Sharing = copy.deepcopy(trained.model, shared)
    model.statistics = None
    called: set[nn.Module] = set()
    hooks = [one.register_forward_hook(lambda module, _input, _output: called.add(module)) for one in model.modules()]
    with torch.inference_mode():
        model(Normalize(trained.preprocess)(torch.zeros(1, trained.channels, *trained.size)), tasks)
    for hook in hooks:
        hook.remove()
    for holder in [one for one in model.modules() if isinstance(one, ByTask)]:
        for name, module in list(holder.named_children()):
            if not called.intersection(module.modules()):
                del holder._modules[name]
    return model
