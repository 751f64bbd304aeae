"""A trained model on batches of images: its backbone by an inference engine where that pays, its heads by PyTorch."""

import torch
from torch import Tensor, nn

from tlmtl.activations import Activations
from tlmtl.errors import ConfigError
from tlmtl.features.engines import Engine as Runner
from tlmtl.features.engines import Engines, check
from tlmtl.predict.model import Trained
from tlmtl.preprocess import Normalize

KEY = "--engine"


class Engine:
    """Runs a model on batches of images: uint8 (n, C, H, W) -> by task, what is stored as a prediction (n, outputs).

    Arguments:
        name: what runs the backbone: auto, torch, onnxruntime or openvino (`features.engines`). All give the same to 1e-5.
        images: how many there will be in all, which `auto` goes by.
        batch: how many at a time. Engines take batches of one size, so smaller ones are filled up.

    Raises ConfigError for an engine that is unknown or not installed, or for a model that needs PyTorch where another is
    named; at the first batch, for an engine that does not take the backbone.
    """

    def __init__(self, trained: Trained, name: str = "auto", images: int = 0, batch: int = 32) -> None:
        check(name, KEY)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # a copy of the weights in the order that convolutions on colour images are fastest in; the numbers agree to 1e-6
        self.format = torch.channels_last if trained.channels == 3 else torch.contiguous_format
        self.model = trained.model.to(self.device).to(memory_format=self.format)
        self.tasks = trained.tasks
        self.normalize = Normalize(trained.preprocess)
        if self.model.between_stages and name not in ("auto", "torch"):
            raise ConfigError(
                f"'{KEY}={name}' runs a whole backbone, and {type(self.model).__name__} works between its stages. "
                f"Use {KEY}=auto."
            )
        self.name, self.images, self.batch = name, images, batch
        self.runners: dict[tuple[str, str], Runner] = {}
        # by part of a joint data set, tasks that have one encoder
        self.asked = [
            (part, some)
            for part, tasks in trained.parts.items()
            for some in ([[task] for task in tasks] if self.model.separate else [tasks])
        ]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        inputs = self.normalize(images.to(self.device)).contiguous(memory_format=self.format)
        found: dict[str, Tensor] = {}
        for part, tasks in self.asked:
            with self.model.on(part):
                found |= self.model(self._encoded(part, tasks, inputs), tasks).heads
        return {name: task.own_unit(task.kept(found[name], inputs)[0]).cpu() for name, task in self.tasks.items()}

    def _encoded(self, part: str, tasks: list[str], inputs: Tensor) -> Tensor | Activations:
        """The inputs themselves where PyTorch goes on with them, else what the backbone makes of them."""
        if self.model.between_stages or self.name == "torch":
            return inputs
        left = -len(inputs) % self.batch
        batches = torch.cat([inputs, inputs[:1].expand(left, -1, -1, -1)]).split(self.batch)
        runner = self.runners.get((part, tasks[0]))
        if runner is None:
            runner = self.runners[part, tasks[0]] = self._runner(tasks, batches[0])
        if runner.name == "torch":
            return inputs
        return Activations(torch.cat([runner(batch) for batch in batches])[: len(inputs)])

    def _runner(self, tasks: list[str], example: Tensor) -> Runner:
        backbone = self.model.backbone
        assert isinstance(backbone, nn.Module)
        module: nn.Module = backbone[tasks[0]] if self.model.separate else backbone  # type: ignore[index]
        engines = Engines(
            module, example[:1], self.name, "32-true", self.images, lambda inputs: module(inputs).cpu(), KEY
        )
        return engines.first(example)
