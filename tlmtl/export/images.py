"""Images to compare an exported model with its run on: the run's own held-out ones where they are still there, else noise."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from torch.nn import functional as F

from tlmtl import files
from tlmtl.data.dataset import Data
from tlmtl.data.parts import streams_of
from tlmtl.errors import TlmtlError
from tlmtl.predict.model import Trained
from tlmtl.schema import Config

COUNT = 32
ANY = (1, 7)  # batches that are compared where any number of images is allowed; then the rest


@dataclass
class Looked:
    """What is compared on: batches of uint8 images (n, C, H, W), and in words what they are."""

    batches: list[Tensor]
    what: str


def look(folder: Path, trained: Trained, allow: list[str], batch: int | None) -> Looked:
    """Images for a comparison.

    Arguments:
        folder: the run's; its config says which data it had. A config of a stranger's is data: its targets are allow-listed,
            and nothing is downloaded for it.
        batch: how many at a time; None for several numbers of them.
    """
    wanted = COUNT if batch is None else batch * max(1, COUNT // batch)
    try:
        images, what = _own(folder, trained, allow)
    except (TlmtlError, OmegaConfBaseException, OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        images, what = noise(min(COUNT, wanted), trained), "images of noise, as the run's own are not at hand"
    images = images[torch.arange(wanted) % len(images)]
    sizes = [*ANY, wanted - sum(ANY)] if batch is None else [batch] * (wanted // batch)
    return Looked(list(images.split(sizes)), f"{wanted} {what}")


def _own(folder: Path, trained: Trained, allow: list[str]) -> tuple[Tensor, str]:
    """Images of the run's validation and test splits, evenly from each part of its data."""
    cfg = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(folder / "config.yaml"))
    assert isinstance(cfg, DictConfig)
    OmegaConf.set_struct(cfg, False)
    _stay_offline(cfg.dataset)
    found = streams_of(cfg.dataset, cfg.tasks, allow, files.cache_folder(None))
    as_trained = dataclasses.replace(trained.preprocess, size=trained.size)
    share = -(-COUNT // len(found))
    images = []
    for data in found.values():
        at = _some(data, share)
        images.append(data.examples.images.as_channels(trained.channels).read(torch.from_numpy(at), as_trained))
    return torch.cat(images), "of the run's own validation and test images"


def _some(data: Data, count: int) -> np.ndarray:
    held = np.concatenate([data.splits["val"], data.splits["test"]])
    return held[np.unique(np.linspace(0, len(held) - 1, count).astype(int))]


def _stay_offline(node: Any) -> None:
    for one in _mappings(node):
        if "download" in one:
            one["download"] = False


def _mappings(node: Any) -> Iterator[DictConfig]:
    if isinstance(node, DictConfig):
        yield node
        for key in node:
            yield from _mappings(node[key])


def noise(count: int, trained: Trained) -> Tensor:
    """Clouds of several grains, a black and a white image: uint8 (count, C, H, W), the same each time."""
    made = torch.Generator().manual_seed(0)
    images = torch.zeros(count, trained.channels, *trained.size)
    for grain in (2, 5, 11, min(trained.size)):
        coarse = torch.rand(count, trained.channels, grain, grain, generator=made)
        images += F.interpolate(coarse, trained.size, mode="bilinear") / 4
    images = (images - 0.5) * 2 + 0.5
    images[:2] = torch.tensor([0.0, 1.0])[: len(images), None, None, None]
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
