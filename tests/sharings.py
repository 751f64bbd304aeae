"""Models of every sharing for tests, their heads drawn by their names."""

import copy
from functools import cache

import torch
from omegaconf import OmegaConf
from torch import nn

from tlmtl.config import build
from tlmtl.models.encoder import Encoder
from tlmtl.models.heads import LinearHead
from tlmtl.models.small_cnn import small_cnn
from tlmtl.models.timm import timm_model
from tlmtl.models.torchvision import torchvision_model
from tlmtl.presets import packaged_folder, presets
from tlmtl.sharing.base import fresh

SHARINGS = [preset.name for preset in presets("sharing", [packaged_folder()])]
OWN = ["none", "cross_stitch"]  # an encoder for each task
OUTPUTS = {"right": 10, "left": 10, "sum": 1}


@cache
def original(family: str, channels: int = 1) -> Encoder:
    torch.manual_seed(0)
    if family == "small_cnn":
        return small_cnn(width=4, pool=2, channels=channels)
    library, name = family.split("/")
    return (torchvision_model if library == "torchvision" else timm_model)(name, 32)


def encoder_of(family: str = "small_cnn", channels: int = 1) -> Encoder:
    encoder = copy.copy(original(family, channels))
    encoder.module = copy.deepcopy(encoder.module)
    return encoder


def made(sharing: str, encoder: Encoder | None = None, tasks=tuple(OUTPUTS), **settings) -> nn.Module:
    """A model of the packaged config, its heads drawn by their names."""
    node = OmegaConf.merge(OmegaConf.load(packaged_folder() / "sharing" / f"{sharing}.yaml"), settings)
    encoder = encoder or encoder_of()
    torch.manual_seed(0)
    heads = {
        task: fresh(task, lambda task=task: LinearHead(encoder.feature_size, OUTPUTS.get(task, 2), "default"))
        for task in tasks
    }
    return build(node, "sharing", encoder=encoder, heads=heads)


def images(channels=1, n=4, height=16, width=28, seed=0):
    return torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(seed))
