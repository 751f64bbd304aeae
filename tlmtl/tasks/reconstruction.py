"""`kind: reconstruction`: the input again, from the features. It needs no labels."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tlmtl.tasks.base import masked_mean

METRICS = ["mse", "r2"]


@dataclass
class Reconstruction:
    """An autoencoder's task (Hinton & Salakhutdinov 2006): squared error between the input as the model saw it, augmented and
    normalised, and what a decoder makes of its features, averaged over pixels and channels.

    Outputs and targets come in two forms. From the model: images (n, C, H, W). As evaluation keeps them, since a whole split
    of images would fill the memory: output (n, 1), the root mean squared error of each image; target (n, 2), the mean of its
    values and the mean of their squares. What tells them apart is the target's number of dimensions.
    """

    of_input: ClassVar[bool] = True

    name: str
    metrics: list[str]
    primary: bool = True
    weight: float = 1.0
    kind: str = "reconstruction"

    @property
    def outputs(self) -> int:
        return 1

    def encode(self, column: np.ndarray) -> tuple[Tensor, Tensor]:
        raise TypeError(f"The task '{self.name}' is of the input itself: no column holds its targets.")

    def training_loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return self.loss(output, target, mask)

    def loss(self, output: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Takes both forms: output and target (n, C, H, W), or output (n, 1) and target (n, 2) as `kept` returns them."""
        if target.ndim == 2:
            return masked_mean(output.float().squeeze(1) ** 2, mask)
        return masked_mean(_squared_error(output, target), mask)

    def kept(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, C, H, W) both -> errors (n, 1), and mean and mean square of each input (n, 2)."""
        values = target.float().flatten(1)
        moments = torch.stack([values.mean(1), (values**2).mean(1)], 1)
        return _squared_error(output, target).sqrt()[:, None], moments

    def constant_loss(self, target: Tensor) -> float:
        """That of the best single grey value for all pixels, channels and images: the variance of them all, from `target`
        (n, 2) as `kept` returns it. (The best constant picture would be their mean image, which is not kept.)"""
        mean, square = target.double().mean(0)
        return float((square - mean**2).clamp(min=0))

    def own_unit(self, output: Tensor) -> Tensor:
        return output.float()

    def own_target(self, target: Tensor) -> Tensor:
        return target

    def measure(self, stored: Tensor, target: Tensor) -> dict[str, float]:
        """In units of the normalised input. mse: as the loss; r2: 1 - mse / `constant_loss`, the share of the variance around
        the best grey value that is explained, left out where there is none."""
        mse, constant = float((stored.double() ** 2).mean()), self.constant_loss(target)
        found = {"mse": mse}
        if constant > 1e-6 * float(target[:, 1].double().mean()):  # below, it is the rounding of the moments
            found["r2"] = 1 - mse / constant
        return {name: found[name] for name in self.metrics if name in found}

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "metrics": self.metrics}

    def explain(self, output: Tensor, top: int = 1) -> dict[str, list]:
        """The root mean squared error of each image."""
        return {"_rmse": output.squeeze(-1).tolist()}


def _squared_error(output: Tensor, target: Tensor) -> Tensor:
    """By image, (n,): the mean over channels and pixels."""
    return ((output.float() - target.float()) ** 2).flatten(1).mean(1)
