"""`model=small_cnn`: three convolution blocks for small images, the model of the embedded default."""

from collections import OrderedDict

from torch import nn

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
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)
    )
