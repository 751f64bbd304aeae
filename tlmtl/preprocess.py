"""Pre-processing: deterministic, on whole batches. It belongs to the weights, so models state it and data follow."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


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
    scale = preprocess.resize / min(height, width)
    size = [max(preprocess.resize, round(height * scale)), max(preprocess.resize, round(width * scale))]
    if (height, width) != tuple(size):
        if images.shape[1] == 3:  # torch's integer arithmetic, four times as fast; it differs by 1 of 255 at most
            images = F.interpolate(images, size, mode=preprocess.interpolation, antialias=True)
        else:
            resized = F.interpolate(images.float(), size, mode=preprocess.interpolation, antialias=True)
            images = resized.round_().clamp_(0, 255).to(torch.uint8)
    if preprocess.crop:
        images = _centre_crop(images, preprocess.crop)
    return images.contiguous()


def _centre_crop(images: Tensor, side: int) -> Tensor:
    """Centre crop to (side, side); an image smaller than that is padded with zeros, as torchvision does."""
    height, width = images.shape[-2:]
    if height < side or width < side:
        pad_h, pad_w = max(side - height, 0), max(side - width, 0)
        images = F.pad(images, (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2))
        height, width = images.shape[-2:]
    top, left = round((height - side) / 2), round((width - side) / 2)
    return images[..., top : top + side, left : left + side]


class Normalize:
    """uint8 (N, C, H, W) -> float (N, len(mean) or C, H, W). One grey channel is repeated for a model of three."""

    def __init__(self, preprocess: Preprocess) -> None:
        mean, std = torch.tensor(preprocess.mean), torch.tensor(preprocess.std)
        self.scale, self.shift = (1 / (255 * std)).view(1, -1, 1, 1), (-mean / std).view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        scale, shift = self.scale.to(images.device), self.shift.to(images.device)
        return torch.addcmul(shift, images.float(), scale)
