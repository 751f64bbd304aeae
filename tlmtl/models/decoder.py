"""From features back to the input: the head of a reconstruction."""

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 32  # channels of every map but the last
LARGEST = 7  # side of the map that the features become, at most


class Decoder(nn.Module):
    """Features (n, D) -> images (n, C, H, W) of exactly the input's shape, in units of the normalised input.

    A linear layer makes a map of at most 7 x 7, of the input's proportions; then each step doubles it (nearest neighbour, to
    the next of the sizes that H x W halves to, rounded up) and runs a 3x3 convolution, to C channels in the last step.
    Resizing first avoids the checkerboards of transposed convolutions (Odena, Dumoulin & Olah 2016), and nearest neighbours,
    unlike bilinear ones, have a deterministic gradient on a GPU. Initial values: He et al. 2015 before a ReLU; the last layer
    near zero, so that a new decoder says grey, the mean of normalised images.

    Arguments:
        features: D.
        shape: (C, H, W) of an input; each 1 or more.
    """

    def __init__(self, features: int, shape: Sequence[int]) -> None:
        super().__init__()
        channels, height, width = shape
        self.sizes = [(height, width)]
        while max(self.sizes[0]) > LARGEST:
            self.sizes.insert(0, (math.ceil(self.sizes[0][0] / 2), math.ceil(self.sizes[0][1] / 2)))
        self.linear = nn.Linear(features, WIDTH * math.prod(self.sizes[0]))
        self.steps = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in self.sizes[1:-1])
        self.last = nn.Conv2d(WIDTH, channels, 3, padding=1)
        for name, values in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(values)
            elif name.startswith("last"):
                nn.init.normal_(values, std=0.01)
            else:
                nn.init.kaiming_normal_(values, nonlinearity="relu")

    def forward(self, features: Tensor) -> Tensor:
        maps = F.relu(self.linear(features)).unflatten(1, (WIDTH, *self.sizes[0]))
        for step, size in zip(self.steps, self.sizes[1:], strict=False):
            maps = F.relu(step(F.interpolate(maps, size, mode="nearest")))
        return self.last(F.interpolate(maps, self.sizes[-1], mode="nearest"))
