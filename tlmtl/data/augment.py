"""Augmentation: random, and different for every sample. (torchvision's v2 transforms change all samples of a batch alike.)"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from tlmtl.data.trivial_augment import trivial_augment
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
    return _resample(images, theta, "zeros")


def crop_flip(images: Tensor, generator: Generator) -> Tensor:
    """Cut a box out of each image, resize it to the image's size, and mirror it with probability one half.

    The box has half of the image's area or more, and sides whose ratio differs from the image's by 3/4 to 4/3
    (log-uniformly): the random crop of Szegedy et al. (2015, section 6), who take 8 % or more, but milder because images
    are few here. Their draw is repeated until the box fits in the image; here a side that is too long is cut to the
    image's, which leaves more than half of the area still. Bilinear.
    """
    n = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    area, ratio = uniform(0.5, 1), uniform(math.log(3 / 4), math.log(4 / 3)).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    x, y = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)  # the box's middle; the image is from -1 to 1
    mirrored = torch.where(torch.rand(n, generator=generator) < 0.5, -width, width)
    zero = torch.zeros(n)
    theta = torch.stack([torch.stack([mirrored, zero, x], 1), torch.stack([zero, height, y], 1)], 1)
    return _resample(images, theta, "border")  # what lies half a pixel outside is the edge's pixel


def _resample(images: Tensor, theta: Tensor, outside: str) -> Tensor:
    """uint8 images as seen through the affine maps `theta` (n, 2, 3); `outside`: `zeros` or `border`."""
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    seen = F.grid_sample(images.float(), grid, padding_mode=outside, align_corners=False)
    return seen.round_().clamp_(0, 255).to(torch.uint8)


AUGMENTATIONS = {
    "none": no_augmentation,
    "flip": flip,
    "crop_flip": crop_flip,
    "trivial_augment": trivial_augment,
    "digits": digits,
}


def augmentation(name: str) -> Augmentation:
    """The augmentation of that name: (uint8 images, generator) -> uint8 images, every sample changed on its own."""
    if name not in AUGMENTATIONS:
        raise ConfigError(
            f"Unknown dataset.augment '{name}'.{nearest(name, list(AUGMENTATIONS))} Known: {', '.join(AUGMENTATIONS)}."
        )
    return AUGMENTATIONS[name]
