"""A run's model from its folder alone: parameters, pre-processing, tasks. Nothing of its data is needed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from tlmtl.config import build
from tlmtl.data.decode import decode_fast
from tlmtl.errors import ConfigError
from tlmtl.models.heads import LinearHead
from tlmtl.models.source import SEEN, read_model, read_record
from tlmtl.preprocess import Normalize, Preprocess, cover
from tlmtl.tasks.base import Task
from tlmtl.tasks.kinds import task_from


@dataclass
class Trained:
    """A model as it was trained.

    Arguments:
        preprocess: what its parameters expect of an image.
        channels: of the images it was trained on, 1 (grey) or 3.
        size: height and width of its inputs.
    """

    model: nn.Module
    tasks: dict[str, Task]
    preprocess: Preprocess
    channels: int
    size: tuple[int, int]

    def read(self, path: str) -> Tensor:
        """An image file as uint8 (1, C, H, W) of the model's size. Raises OSError for what is no whole image."""
        image = torch.from_numpy(decode_fast(path, self.channels))[None]
        return cover(image, self.preprocess, self.size)


def load(folder: Path, allow: list[str]) -> Trained:
    """The model of a finished run, in eval mode, on the CPU.

    Arguments:
        allow: packages beside tlmtl's own that its parts may come from; the folder may be a stranger's.

    Raises ConfigError for a folder that is no finished run, is broken, or needs a package that is not allowed.
    """
    read_record(folder, "RUN", "one to predict with")
    tensors, about = read_model(folder)
    tensors.pop(SEEN, None)
    try:
        tasks = {name: task_from(name, one) for name, one in about["tasks"].items()}
        channels, size = int(about["channels"]), tuple(about["shape"][-2:])
        nodes = {key: OmegaConf.create(about[key]) for key in ("model", "sharing")}
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{folder}/model.safetensors does not say what is needed to predict: {error!r}.") from error
    encoder = build(nodes["model"], "model", allow=allow, channels=channels)
    heads: dict[str, Any] = {name: LinearHead(encoder.feature_size, task.outputs) for name, task in tasks.items()}
    model: nn.Module = build(nodes["sharing"], "sharing", allow=allow, encoder=encoder, heads=heads)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ConfigError(
            f"{folder}/model.safetensors does not fit its own model: {str(error).splitlines()[-1].strip()}"
        ) from error
    return Trained(model.eval(), tasks, about["preprocess"], channels, (int(size[0]), int(size[1])))


class Engine:
    """Runs a model on batches of images: uint8 (n, C, H, W) -> by task, what is stored as a prediction (n, outputs)."""

    def __init__(self, trained: Trained) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # a copy of the weights in the order that convolutions on colour images are fastest in; the numbers agree to 1e-6
        self.format = torch.channels_last if trained.channels == 3 else torch.contiguous_format
        self.model = trained.model.to(self.device).to(memory_format=self.format)
        self.tasks, self.normalize = trained.tasks, Normalize(trained.preprocess)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        inputs = self.normalize(images.to(self.device)).contiguous(memory_format=self.format)
        heads = self.model(inputs, list(self.tasks)).heads
        return {name: task.own_unit(heads[name]).cpu() for name, task in self.tasks.items()}
