"""Pre-processing: deterministic, on whole batches. It belongs to the weights, so models state it and data follow."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

STRIP = 16  # times as long as wide: of a longer picture only the middle is looked at where the model crops


@dataclass(frozen=True)
class Preprocess:
    """What a model's parameters expect of an image. It comes with them, never with the data set.

    Arguments:
        resize: the shorter side is scaled to so many pixels.
        crop: side of the centre crop, or None to keep the whole picture.
        mean, std: per channel, for values in [0, 1].
        interpolation: "bilinear" or "bicubic", both antialiased.
    """

    resize: int
    crop: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def cropped(self) -> "Preprocess":
        """The same, with a square crop: for images of several shapes, which could not be stacked otherwise."""
        return self if self.crop else dataclasses.replace(self, crop=self.resize)

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Preprocess":
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def fit(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Resize and crop uint8 images (N, C, H, W), rounded to uint8 again."""
    height, width = images.shape[-2:]
    if preprocess.crop and max(height, width) > STRIP * min(
        height, width
    ):  # scaled whole, a strip could fill the memory
        images = _window(images, min(height, STRIP * width), min(width, STRIP * height))
        height, width = images.shape[-2:]
    scale = preprocess.resize / min(height, width)
    size = [max(preprocess.resize, round(height * scale)), max(preprocess.resize, round(width * scale))]
    if (height, width) != tuple(size):
        if images.shape[1] == 3:  # torch's integer arithmetic, four times as fast; it differs by 1 of 255 at most
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
    picture is scaled until it covers `size`, then cropped in its centre.
    """
    if preprocess.crop:
        return fit(images, preprocess)
    height, width = images.shape[-2:]
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
