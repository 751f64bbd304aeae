"""`model=small_cnn`: three convolution blocks for small images, the model of the embedded default."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.models.encoder import Encoder
from tlmtl.preprocess import Preprocess


def small_cnn(width: int = 32, pool: int = 1, image_size: int = 16, *, channels: int = 1) -> Encoder:
    """(n, channels, H, W) -> (n, 4 * width * pool * pool).

    Each block is a 3x3 convolution, batch norm, ReLU and a max-pooling that halves the side.

    Arguments:
        width: channels of the first block; the next two have twice and four times as many.
        pool: side of the map that the features are pooled to; 2 keeps where things stand.
        image_size: the shorter side that images are scaled to, 8 at least.
        channels: of the data.
    """
    for name, value, least in (("width", width, 1), ("pool", pool, 1), ("image_size", image_size, 8)):
        if value < least:
            raise ConfigError(f"'model.{name}' should be {least} or more. Found {value}.")
    sizes = [channels, width, 2 * width, 4 * width]
    blocks = [(f"block{i + 1}", _block(sizes[i], sizes[i + 1])) for i in range(3)]
    pooled = ("pool", nn.Sequential(nn.AdaptiveAvgPool2d(pool), nn.Flatten()))
    return Encoder(
        nn.Sequential(OrderedDict([*blocks, pooled])),
        feature_size=sizes[-1] * pool * pool,
        preprocess=Preprocess(resize=image_size, crop=None, mean=(0.5,), std=(0.5,)),
        blocks=[name for name, _ in blocks],
        threads=1,  # a step is too short to share: two threads gain little, and two processes of two lose much
    )


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), Halving()
    )


class Halving(nn.Module):
    """`nn.MaxPool2d(2)`: (n, C, H, W) -> (n, C, H // 2, W // 2), the same values and gradients to the bit.

    torch's own takes half of this network's forward pass on a CPU; the maximum of four strided views takes a tenth of that.
    """

    def forward(self, input: Tensor) -> Tensor:
        return _Halved.apply(input) if torch.is_grad_enabled() and input.requires_grad else _largest(input)


class _Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        output = _largest(input)
        ctx.save_for_backward(input, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Each gradient goes to the first of four pixels that is the largest, row by row, as in `nn.MaxPool2d`."""
        (input, output), (gradient,) = ctx.saved_tensors, gradients
        found, left = torch.zeros_like(input), torch.ones_like(output, dtype=torch.bool)
        for place, pixels in zip(_quarters(found), _quarters(input), strict=True):
            here = (pixels == output).logical_and_(left)
            torch.mul(gradient, here, out=place)
            left.logical_and_(here.logical_not_())
        return found


def _largest(input: Tensor) -> Tensor:
    first, second, third, fourth = _quarters(input)
    return torch.maximum(torch.maximum(first, second), torch.maximum(third, fourth))


def _quarters(input: Tensor) -> list[Tensor]:
    """Views of the upper left, upper right, lower left and lower right pixels of each 2 by 2 block."""
    height, width = input.shape[-2] // 2 * 2, input.shape[-1] // 2 * 2
    return [input[..., row:height:2, column:width:2] for row in (0, 1) for column in (0, 1)]
