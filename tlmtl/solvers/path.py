"""Regularised linear models of features, for one strength after another: L-BFGS in coordinates in which it takes few steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

AT_ONCE = 2**21  # numbers of a piece of a large matrix in double precision
RANK = 1e-10  # of the largest variance: directions of less are rounding
LEAST = 1e-3  # of the largest that the curvature of the loss can be; a guess below serves nobody
CLOSE, SLOW = 1e-7, 0.1  # what the minimum may be missed by, relative; of that, what one more step should bring
ROUNDS, ALIKE = (
    4,
    2.0,
)  # times that it is gone on from there, where curvature or objective were found to be so much other
MEMORY = 10  # steps that L-BFGS remembers


class Loss(Protocol):
    """A mean over n examples, to be minimised."""

    curvature: float  # the largest second derivative there can be, in one output

    def __call__(self, outputs: Tensor, where: slice) -> tuple[float, Tensor, float]:
        """Loss, its gradient, and the mean curvature, of the examples at `where`: outputs float64 (m, K). Pieces add up."""
        ...


@dataclass
class CrossEntropy:
    """Softmax cross entropy: -sum_k t_ik log p_ik.

    Arguments:
        targets: float64 (n, K), rows of any sum: with weights of classes, of examples, or smoothed; the mean's 1 / n is in.
    """

    targets: Tensor
    curvature: float = 0.5  # Böhning 1992: the Hessian of log sum exp is at most (I - 1 1^T / K) / 2

    def __call__(self, outputs: Tensor, where: slice) -> tuple[float, Tensor, float]:
        target = self.targets[where]
        logs, mass = outputs.log_softmax(1), target.sum(1, keepdim=True)
        shares = logs.exp()
        curvature = float((mass * shares * (1 - shares)).sum()) / max(1, outputs.shape[1])
        return -float((target * logs).sum()), mass * shares - target, curvature


@dataclass
class Binary:
    """Binary cross entropy of K labels, summed over labels.

    Arguments:
        targets: float64 (n, K), 0 to 1.
        shares: float64 (n, K): what each entry weighs; 0 where it is not known, and the mean's 1 / n is in.
    """

    targets: Tensor
    shares: Tensor
    curvature: float = 0.25

    def __call__(self, outputs: Tensor, where: slice) -> tuple[float, Tensor, float]:
        target, share = self.targets[where], self.shares[where]
        each = F.binary_cross_entropy_with_logits(outputs, target, weight=share, reduction="sum")
        said = outputs.sigmoid()
        return float(each), share * (said - target), float((share * said * (1 - said)).sum()) / max(1, outputs.shape[1])


@dataclass
class Rotated:
    """Features in the directions of their variance.

    Arguments:
        mean, scale: (D,), float64: what was taken from the features, and by what they were then divided.
        directions: V (D, r), float64, orthonormal.
        variance: (r,), float64, along each.
        values: (n, r), float32.
    """

    mean: Tensor
    scale: Tensor
    directions: Tensor
    variance: Tensor
    values: Tensor

    def of(self, features: Tensor) -> Tensor:
        """Other features (m, D) in the same coordinates, float32 (m, r)."""
        made = torch.empty(len(features), len(self.variance))
        for at in pieces(*features.shape):
            made[at] = ((features[at].double() - self.mean) / self.scale) @ self.directions
        return made

    def back(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """A linear layer for rotated features, (K, r) and (K,), as one for the features themselves: (K, D) and (K,)."""
        original = weight @ self.directions.T / self.scale
        return original, bias - original @ self.mean


def pieces(rows: int, columns: int) -> Iterator[slice]:
    """The rows of a matrix, so many at a time that a piece is not large."""
    step = max(1, AT_ONCE // max(1, columns))
    return (slice(at, min(at + step, rows)) for at in range(0, rows, step))


def rotated(features: Tensor, standardize: bool = False) -> Rotated:
    """The features (n, D), float32, in the directions of their variance; as many as there are of any, at most min(n, D).

    With `standardize` each feature is divided by its standard deviation first.
    """
    n, size = features.shape
    mean, squares = torch.zeros(2, size, dtype=torch.float64).unbind()
    for at in pieces(n, size):
        mean += features[at].double().sum(0) / n
    scale = torch.ones_like(mean)
    if standardize:
        for at in pieces(n, size):
            squares += (features[at].double() - mean).square().sum(0) / n
        scale = torch.where(squares > 1e-12 * squares.max(), squares.sqrt(), 1.0)

    def centred(at: slice) -> Tensor:
        return (features[at].double() - mean) / scale

    if n > size:
        gram = torch.zeros(size, size, dtype=torch.float64)
        for at in pieces(*features.shape):
            piece = centred(at)
            gram.addmm_(piece.T, piece)
        squares, directions = torch.linalg.eigh(gram)
    else:
        whole = centred(slice(None))
        squares, sides = torch.linalg.eigh(whole @ whole.T)
        directions = whole.T @ sides / squares.clamp(min=1e-300).sqrt()
    kept = squares > RANK * squares.max().clamp(min=1e-300)
    made = Rotated(mean, scale, directions[:, kept].contiguous(), squares[kept] / n, torch.empty(0))
    made.values = made.of(features)
    return made


@dataclass
class Solution:
    """The linear layer at one strength, for rotated features.

    Arguments:
        weight: float64 (K, r).
        bias: float64 (K,).
        passes: over the features, that it took.
    """

    weight: Tensor
    bias: Tensor
    passes: int


def path(data: Rotated, loss: Loss, outputs: int, pulls: Sequence[float], most: int) -> Iterator[Solution]:
    """The minimum of loss(features W^T + b) + pull / 2 |W|^2 for each of `pulls`, in that order, each from the one before.

    L-BFGS (Liu & Nocedal 1989, SciPy's), in coordinates scaled by what the curvature would be along each direction if the loss
    curved alike everywhere: h * variance + pull, with h measured at the solution before. Without this it takes hundreds of
    steps where features are far from alike in scale, as those of networks are. Features are in single precision: a loss is
    right to 1e-6, relative, where models generalise, and to 1e-5 where next to nothing pulls and all examples are told apart.

    Arguments:
        pulls: above 0; from the largest to the smallest takes the fewest steps.
        most: passes over the features at one strength, at most.
    """
    size = len(data.variance)
    weight, bias = torch.zeros(outputs, size, dtype=torch.float64), torch.zeros(outputs, dtype=torch.float64)
    h = loss.curvature
    for pull in pulls:
        passes = 0
        for _ in range(ROUNDS):
            problem, before = _Problem(data, loss, pull, h), h
            weight, bias = problem.minimum(weight, bias, most - passes)
            passes, h = passes + problem.passes, max(problem.curvature, LEAST * loss.curvature)
            settled = before / ALIKE <= h <= before * ALIKE and problem.last >= problem.first / ALIKE
            if settled or passes >= most:
                break
        yield Solution(weight, bias, passes)


class _Problem:
    """The objective at one strength, in coordinates scaled for the curvature h."""

    def __init__(self, data: Rotated, loss: Loss, pull: float, h: float) -> None:
        self.values, self.loss, self.pull = data.values, loss, pull
        self.scale, self.side = (h * data.variance + pull).rsqrt(), h**-0.5
        self.passes, self.curvature = 0, h
        self.first = self.last = 0.0  # of the objective

    def minimum(self, weight: Tensor, bias: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Weight and bias of the minimum, from those of a start, after about `most` passes at most."""
        from scipy.optimize import minimize

        start = torch.cat([weight / self.scale, bias[:, None] / self.side], 1)
        shape = start.shape
        if not start.numel():
            return weight, bias
        self.first = self._value(start)[0]
        found = minimize(
            lambda flat: _numbers(*self._value(torch.from_numpy(flat).view(shape))),
            start.view(-1).numpy(),
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": most, "maxfun": most, "maxcor": MEMORY, "ftol": SLOW * CLOSE * self.first,
                "gtol": (2 * CLOSE * self.first / start.numel()) ** 0.5,
            },
        )  # fmt: skip
        self.last, theta = float(found.fun), torch.from_numpy(found.x).view(shape)
        return theta[:, :-1] * self.scale, theta[:, -1] * self.side

    def _value(self, theta: Tensor) -> tuple[float, Tensor]:
        """The objective at theta (K, r + 1) and its gradient there."""
        weight, bias = theta[:, :-1] * self.scale, theta[:, -1] * self.side
        total, curvature, grad = 0.5 * self.pull * float(weight.square().sum()), 0.0, torch.zeros_like(theta)
        for at in pieces(len(self.values), len(weight)):
            values = self.values[at]
            part, slope, bend = self.loss((values @ weight.T.float()).double() + bias, at)
            total, curvature = total + part, curvature + bend
            grad[:, :-1] += slope.T.float() @ values
            grad[:, -1] += slope.sum(0)
        grad[:, :-1] = (grad[:, :-1] + self.pull * weight) * self.scale
        grad[:, -1] *= self.side
        self.passes, self.curvature = self.passes + 1, curvature
        return total, grad


def _numbers(value: float, grad: Tensor) -> tuple[float, np.ndarray]:
    return value, grad.view(-1).numpy()
