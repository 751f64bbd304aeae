"""A run's model from its folder alone: parameters, pre-processing, tasks. Nothing of its data is needed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from tlmtl.config import build, typed
from tlmtl.data.decode import decode_fast
from tlmtl.errors import ConfigError
from tlmtl.models.by_task import part_of
from tlmtl.models.encoder import Encoder
from tlmtl.models.heads import head_as, make_head
from tlmtl.models.saved import read_model, read_record
from tlmtl.models.source import CHOSEN, SEEN
from tlmtl.models.statistics import Statistics
from tlmtl.preprocess import SIDE, Preprocess, cover, is_side
from tlmtl.schema import Head
from tlmtl.sharing.base import Sharing
from tlmtl.tasks.base import Task
from tlmtl.tasks.kinds import task_from

T = TypeVar("T")


@dataclass
class Trained:
    """A model as it was trained.

    Arguments:
        preprocess: what its parameters expect of an image.
        channels: of the images it was trained on, 1 (grey) or 3.
        size: height and width of its inputs.
        parts: by part of a joint data set, its tasks.
    """

    model: Sharing
    tasks: dict[str, Task]
    preprocess: Preprocess
    channels: int
    size: tuple[int, int]
    parts: dict[str, list[str]]

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
    return rebuilt(*read_model(folder), folder / "model.safetensors", allow)


def rebuilt(tensors: dict[str, Tensor], about: Mapping[str, Any], path: Path, allow: list[str]) -> Trained:
    """The model that a file's tensors and description are of, in eval mode, on the CPU.

    Arguments:
        tensors: by the model's names; hashes of what it was trained on may be among them.
        about: as `artifacts.write_model` describes it.
        path: of the file, for messages.

    Raises ConfigError for a description or tensors that no run writes, and as `load` does.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if name not in (SEEN, CHOSEN)}
    try:
        tasks, channels, size, parts = _described(about)
        nodes = {key: OmegaConf.create(about[key]) for key in ("model", "sharing", "head")}
    except (KeyError, TypeError, ValueError, AttributeError, OmegaConfBaseException) as error:
        said = error if type(error) is ValueError else _told(error)
        raise ConfigError(f"{path} does not say what is needed to predict: {said}.") from error
    try:
        encoder = _made(Encoder, build(nodes["model"], "model", allow=allow, channels=channels), "model")
        settings = typed(Head, nodes["head"], "head")
        shape = (max(channels, len(about["preprocess"].mean)), *size)  # grey is repeated where a model takes colour
        heads = {name: make_head(task, encoder.feature_size, shape, settings) for name, task in tasks.items()}
        for name, told in (about.get("heads") or {}).items():  # of a kind that `head` does not say
            examples = len(tensors[f"heads.{part_of(name)}.examples"])
            heads[name] = head_as(told, tasks[name], encoder.feature_size, examples)
        shared = build(nodes["sharing"], "sharing", allow=allow, encoder=encoder, heads=heads)
        model: Sharing = _made(Sharing, shared, "sharing")
        if parts:
            model.statistics = Statistics(model, list(parts))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OmegaConfBaseException) as error:
        raise ConfigError(f"The model that {path} tells of cannot be built: {_told(error)}.") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ConfigError(f"{path} does not fit its own model: {str(error).splitlines()[-1].strip()}") from error
    return Trained(model.eval(), tasks, about["preprocess"], channels, size, parts or {"": list(tasks)})


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0].rstrip('.')}"


def _described(about: Mapping[str, Any]) -> tuple[dict[str, Task], int, tuple[int, int], dict[str, list[str]]]:
    """Tasks, channels, height and width of the inputs, and the tasks of each part. Raises ValueError for what no run writes."""
    told, channels, shape, parts = about["tasks"], about["channels"], about["shape"], about["parts"]
    if shapes := about.get("shapes"):
        sizes = ", ".join(f"{part} {'x'.join(map(str, one[-2:]))}" for part, one in shapes.items())
        raise ConfigError(
            f"This model was trained on parts whose images differ in shape ({sizes}), and a new image is of no part. Train "
            "one part from it (source=run dataset=...), and use that."
        )
    if not isinstance(told, Mapping) or not told or not all(isinstance(one, Mapping) for one in told.values()):
        raise ValueError(f"its tasks should be a mapping from names to what each is, found {told!r}")
    if isinstance(channels, bool) or channels not in (1, 3):
        raise ValueError(f"its channels should be 1 (grey) or 3 (colour), found {channels!r}")
    if not isinstance(shape, list) or len(shape) < 2 or not all(map(is_side, shape[-2:])):
        raise ValueError(f"its shape should end in height and width, 1 to {SIDE} pixels, found {shape!r}")
    lists: list[Any] = list(parts.values()) if isinstance(parts, dict) else [None]
    if not all(isinstance(one, list) for one in lists) or (
        parts and sorted(n for one in lists for n in one) != sorted(told)
    ):
        raise ValueError(
            f"its parts should be a mapping from names to tasks, each task in one of them, found {parts!r}"
        )
    tasks = {name: task_from(name, one) for name, one in told.items()}
    return tasks, channels, (shape[-2], shape[-1]), parts


def _made(kind: type[T], found: Any, key: str) -> T:
    if not isinstance(found, kind):
        raise TypeError(f"its {key}._target_ should make a {kind.__name__}, and made a {type(found).__name__}")
    return found
