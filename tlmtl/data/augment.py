"""Augmentation: random, and different for every sample. (torchvision's v2 transforms change all samples of a batch alike.)"""

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from tlmtl.errors import ConfigError, nearest

Augmentation = Callable[[Tensor, Generator], Tensor]


def no_augmentation(images: Tensor, generator: Generator) -> Tensor:
    return images


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror each image with probability one half."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)


def digits(images: Tensor, generator: Generator) -> Tensor:
    """Turn each image by up to 15 degrees, scale it by up to 15 % and shift it by up to 10 %; zeros come in."""
    n = len(images)

    def uniform(limit: float) -> Tensor:
        return (2 * torch.rand(n, generator=generator) - 1) * limit

    angle, scale, x, y = uniform(torch.pi / 12), 1 + uniform(0.15), uniform(0.2), uniform(0.2)  # the width is 2
    cos, sin = angle.cos() / scale, angle.sin() / scale
    theta = torch.stack([torch.stack([cos, -sin, x], 1), torch.stack([sin, cos, y], 1)], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False).round_().clamp_(0, 255).to(torch.uint8)


AUGMENTATIONS = {"none": no_augmentation, "flip": flip, "digits": digits}


def augmentation(name: str) -> Augmentation:
    """The augmentation of that name: (uint8 images, generator) -> uint8 images, every sample changed on its own."""
    if name not in AUGMENTATIONS:
        raise ConfigError(
            f"Unknown dataset.augment '{name}'.{nearest(name, list(AUGMENTATIONS))} Known: {', '.join(AUGMENTATIONS)}."
        )
    return AUGMENTATIONS[name]
