"""`augment: trivial_augment`: one random change of a random strength for each image."""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

BINS = 31
Change = Callable[[Tensor, float], Tensor]


def trivial_augment(images: Tensor, generator: Generator) -> Tensor:
    """TrivialAugment with its Wide space (Müller and Hutter 2021): each image is changed by one operation, drawn evenly from
    14, at one of 31 strengths, drawn evenly; where a strength has a direction, that is drawn too.

    Operations are torchvision's, image by image, with its defaults (nearest neighbour; black comes in). All that is
    random comes from `generator`: torchvision's own class draws from the global one.

    Arguments:
        images: uint8 (n, 1 or 3, height, width). On grey ones, Color changes nothing.
    """
    n, operations, strengths = len(images), _operations(), _strengths()
    names = list(strengths)
    which = torch.randint(len(names), (n,), generator=generator).tolist()
    level = torch.randint(BINS, (n,), generator=generator).tolist()
    sign = (1 - 2 * torch.randint(2, (n,), generator=generator)).tolist()
    changed = []
    for image, number, step, direction in zip(images, which, level, sign, strict=True):
        values, signed = strengths[names[number]]
        changed.append(operations[names[number]](image, values[step] * (direction if signed else 1)))
    return torch.stack(changed)


def _strengths() -> dict[str, tuple[list[float], bool]]:
    """By operation: its 31 strengths, and whether they have a direction. Pixels for translations, degrees for rotations."""
    none = [0.0] * BINS
    most = {
        "ShearX": 0.99,
        "ShearY": 0.99,
        "TranslateX": 32.0,
        "TranslateY": 32.0,
        "Rotate": 135.0,
        "Brightness": 0.99,
        "Color": 0.99,
        "Contrast": 0.99,
        "Sharpness": 0.99,
    }
    return {
        "Identity": (none, False),
        **{name: (torch.linspace(0, limit, BINS).tolist(), True) for name, limit in most.items()},
        "Posterize": ([float(8 - round(6 * level / (BINS - 1))) for level in range(BINS)], False),
        "Solarize": (torch.linspace(1, 0, BINS).tolist(), False),
        "AutoContrast": (none, False),
        "Equalize": (none, False),
    }


def _operations() -> dict[str, Change]:
    """By name: what changes an image (channels, height, width) at a strength."""
    from torchvision.transforms.v2 import functional as F

    def moved(image: Tensor, x: float = 0, y: float = 0) -> Tensor:
        return F.affine(image, angle=0.0, translate=[int(x), int(y)], scale=1.0, shear=[0.0, 0.0])

    def sheared(image: Tensor, x: float = 0, y: float = 0) -> Tensor:
        shear = [math.degrees(math.atan(x)), math.degrees(math.atan(y))]
        return F.affine(image, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])

    return {
        "Identity": lambda image, strength: image,
        "ShearX": lambda image, strength: sheared(image, x=strength),
        "ShearY": lambda image, strength: sheared(image, y=strength),
        "TranslateX": lambda image, strength: moved(image, x=strength),
        "TranslateY": lambda image, strength: moved(image, y=strength),
        "Rotate": lambda image, strength: F.rotate(image, strength),
        "Brightness": lambda image, strength: F.adjust_brightness(image, 1 + strength),
        "Color": lambda image, strength: F.adjust_saturation(image, 1 + strength),
        "Contrast": lambda image, strength: F.adjust_contrast(image, 1 + strength),
        "Sharpness": lambda image, strength: F.adjust_sharpness(image, 1 + strength),
        "Posterize": lambda image, strength: F.posterize(image, int(strength)),
        "Solarize": lambda image, strength: F.solarize(image, 255 * strength),
        "AutoContrast": lambda image, strength: F.autocontrast(image),
        "Equalize": lambda image, strength: F.equalize(image),
    }
