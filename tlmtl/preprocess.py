"""Pre-processing: deterministic, on whole batches. It belongs to the weights, so models state it and data follow."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

STRIP = 16  # times as long as wide: of a longer picture only the middle is looked at where the model crops
SIDE = 2**14  # pixels; a model that asks for more is none


@dataclass(frozen=True)
class Preprocess:
    """What a model's parameters expect of an image. It comes with them, never with the data set.

    Arguments:
        resize: the shorter side is scaled to so many pixels.
        crop: side of the centre crop, or None to keep the whole picture.
        mean, std: per channel, for values in [0, 1].
        interpolation: "bilinear" or "bicubic", both antialiased.
        size: height and width that pictures of any shape are brought to (`cover`); None to leave each its own shape.
    """

    resize: int
    crop: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    size: tuple[int, int] | None = None

    def cropped(self) -> "Preprocess":
        """The same, with a square crop: for images of several shapes, which could not be stacked otherwise."""
        return self if self.crop else dataclasses.replace(self, crop=self.resize)

    def as_dict(self) -> dict:
        return {key: value for key, value in dataclasses.asdict(self).items() if key != "size"}

    @classmethod
    def from_dict(cls, values: Mapping) -> "Preprocess":
        """What `as_dict` gave, perhaps by way of a stranger's file. Raises ValueError for anything else."""
        names = [one.name for one in dataclasses.fields(cls)]
        if not isinstance(values, Mapping) or set(values) - set(names) or set(names[:4]) - set(values):
            raise ValueError(f"its preprocess should be a mapping of {', '.join(names)}, found {values!r}")
        for key in ("resize", "crop"):
            side = values[key]
            if not (is_side(side) or (key == "crop" and side is None)):
                raise ValueError(f"its preprocess.{key} should be a number of pixels, 1 to {SIDE}, found {side!r}")
        for key in ("mean", "std"):
            numbers = values[key]
            if not isinstance(numbers, list | tuple) or len(numbers) not in (1, 3) or not all(map(_is_number, numbers)):
                raise ValueError(f"its preprocess.{key} should be 1 or 3 numbers, found {numbers!r}")
        if len(values["mean"]) != len(values["std"]) or min(values["std"]) <= 0:
            raise ValueError(f"its preprocess.std should be above 0, one for each mean, found {values['std']!r}")
        if values.get("interpolation", "bilinear") not in ("bilinear", "bicubic"):
            raise ValueError(
                f"its preprocess.interpolation should be bilinear or bicubic, found {values['interpolation']!r}"
            )
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def is_side(value: object) -> bool:
    """Whether an image may have so many pixels along a side."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= SIDE


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def fit(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Resize and crop uint8 images (N, C, H, W), rounded to uint8 again."""
    if preprocess.size:
        return cover(images, dataclasses.replace(preprocess, size=None), preprocess.size)
    height, width = images.shape[-2:]
    if preprocess.crop and max(height, width) > STRIP * min(
        height, width
    ):  # scaled whole, a strip could fill the memory
        images = _window(images, min(height, STRIP * width), min(width, STRIP * height))
        height, width = images.shape[-2:]
    scale = preprocess.resize / min(height, width)
    size = [max(preprocess.resize, round(height * scale)), max(preprocess.resize, round(width * scale))]
    if (height, width) != tuple(size):
        if images.shape[1] == 3:  # torch's integer arithmetic, more than twice as fast; it differs by 1 of 255 at most
            images = F.interpolate(images, size, mode=preprocess.interpolation, antialias=True)
        else:
            resized = F.interpolate(images.float(), size, mode=preprocess.interpolation, antialias=True)
            images = resized.round_().clamp_(0, 255).to(torch.uint8)
    if preprocess.crop:
        images = _window(images, preprocess.crop, preprocess.crop)
    return images.contiguous()


def cover(images: Tensor, preprocess: Preprocess, size: tuple[int, int]) -> Tensor:
    """Images of any shape (N, C, H, W) as a model that was trained on inputs of `size` takes them.

    Where the model crops to a square, or the picture has the shape of those it was trained on, that is `fit`. Any other
    picture is scaled until it covers `size`, then cropped in its centre; of one that is more than `STRIP` times as long as
    that needs only the middle is looked at.
    """
    if preprocess.crop:
        return fit(images, preprocess)
    height, width = images.shape[-2:]
    rows = min(height, STRIP * math.ceil(width * size[0] / size[1]))
    columns = min(width, STRIP * math.ceil(height * size[1] / size[0]))
    images, (height, width) = _window(images, rows, columns), (rows, columns)  # scaled whole, it could fill the memory
    scale = max(size[0] / height, size[1] / width)
    resized = dataclasses.replace(preprocess, resize=max(1, round(min(height, width) * scale)))
    return _window(fit(images, resized), *size).contiguous()


def _window(images: Tensor, rows: int, columns: int) -> Tensor:
    """The middle of the images; where they are smaller it is padded with zeros, as torchvision does."""
    height, width = images.shape[-2:]
    if height < rows or width < columns:
        pad_h, pad_w = max(rows - height, 0), max(columns - width, 0)
        images = F.pad(images, (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2))
        height, width = images.shape[-2:]
    top, left = round((height - rows) / 2), round((width - columns) / 2)
    return images[..., top : top + rows, left : left + columns]


class Normalize:
    """uint8 (N, C, H, W) -> float (N, len(mean) or C, H, W). One grey channel is repeated for a model of three."""

    def __init__(self, preprocess: Preprocess) -> None:
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        self.scale, self.shift = (1 / (255 * std)).view(1, -1, 1, 1), (-mean / std).view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        scale, shift = self.scale.to(images.device), self.shift.to(images.device)
        return torch.addcmul(shift, images.float(), scale)
