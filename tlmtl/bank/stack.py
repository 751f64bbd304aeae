"""The linear heads of many runs as one stack of parameters, and the optimizer that gives each its own rate and decay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from tlmtl.optim import uncompiled

# Optimizers whose update is linear in the learning rate and does not look at the parameter, and whether they decay it apart
# from the gradient.
LINEAR: dict[type[Optimizer], bool] = {SGD: False, Adam: False, AdamW: True}


def why_not(optimizer: Optimizer) -> str:
    """Why an optimizer cannot drive a stack, or "" when it can."""
    if type(optimizer) not in LINEAR:
        return f"{type(optimizer).__name__}, which is none of {', '.join(one.__name__ for one in LINEAR)}"
    for key in ("maximize", "differentiable", "capturable"):
        if optimizer.defaults.get(key):
            return f"{type(optimizer).__name__} with {key}"
    if type(optimizer) is Adam and optimizer.defaults.get("decoupled_weight_decay"):
        return "Adam with decoupled_weight_decay, for which AdamW stands"
    return ""


class Stack:
    """K linear heads in G groups of H places: weights (G, H, C, D) and biases (G, H, C). Heads of a group take the same input.

    Arguments:
        heads: those of each group, in order; a group that is shorter than the longest is filled up with heads of zeros.
    """

    def __init__(self, heads: Sequence[Sequence[nn.Linear]]) -> None:
        self.heads = heads
        longest, first = max(map(len, heads)), heads[0][0]
        shape = (len(heads), longest, first.out_features, first.in_features)
        self.weight = torch.zeros(shape, requires_grad=True)
        self.bias = torch.zeros(shape[:3], requires_grad=True)
        with torch.no_grad():
            for g, row in enumerate(heads):
                for h, head in enumerate(row):
                    self.weight[g, h], self.bias[g, h] = head.weight, head.bias

    def __call__(self, input: Tensor) -> Tensor:
        """(G, B, D), or (B, D) for all groups alike, -> (G, H, B, C)."""
        groups, places, outputs, size = self.weight.shape
        flat = self.weight.reshape(groups, places * outputs, size)
        if input.ndim == 2:
            made = (input @ flat.reshape(-1, size).T).view(len(input), groups, places, outputs).permute(1, 2, 0, 3)
        else:
            made = (input @ flat.transpose(1, 2)).unflatten(2, (places, outputs)).transpose(1, 2)
        return made + self.bias.unsqueeze(2)

    def put_back(self, g: int, h: int) -> None:
        """Copy a head's parameters as they are now into its own module."""
        with torch.no_grad():
            self.heads[g][h].weight.copy_(self.weight[g, h])
            self.heads[g][h].bias.copy_(self.bias[g, h])


@dataclass
class Rates:
    """By place (G, H): the learning rates of weights and biases in a step, and their weight decay. A rate of 0 leaves a head as
    it is."""

    weight: Tensor
    bias: Tensor
    weight_decay: Tensor
    bias_decay: Tensor


class Steps:
    """One of torch's optimizers for a whole stack.

    It is given tensors of zeros whose gradients are those of the heads, a rate of 1 and no decay; what is in them after its
    step is the direction that it takes, and each head goes along its own by its own rate. That is what the optimizer itself
    does for a head alone, since its update is linear in the rate (`LINEAR`).

    Arguments:
        make: a class of `LINEAR`.
        settings: its keywords, but for `lr` and `weight_decay`.
    """

    def __init__(self, stack: Stack, make: type[Optimizer], settings: dict[str, Any]) -> None:
        self.stack, self.apart = stack, LINEAR[make]
        self.directions = [torch.zeros_like(stack.weight), torch.zeros_like(stack.bias)]
        for direction in self.directions:
            direction.requires_grad_(False)
        quick = {"fused": True} if settings.get("fused") is None and settings.get("foreach") is None else {}
        self.optimizer = uncompiled(make, self.directions, lr=1.0, weight_decay=0.0, **{**settings, **quick})

    @torch.no_grad()
    def clip(self, norms: Tensor) -> None:
        """Scale each head's gradient to a norm of at most that of `norms` (G, H), as `clip_grad_norm_` does for one alone."""
        weight, bias = self.stack.weight.grad, self.stack.bias.grad
        assert weight is not None and bias is not None
        found = torch.linalg.vector_norm(torch.stack([weight.flatten(2).norm(dim=2), bias.norm(dim=2)]), dim=0)
        scale = torch.where(norms.isfinite(), (norms / (found + 1e-6)).clamp(max=1.0), 1.0)
        weight *= scale[..., None, None]
        bias *= scale[..., None]

    @torch.no_grad()
    def step(self, rates: Rates, alive: Tensor) -> None:
        """One update of every head.

        Arguments:
            alive: bool (G, H); the gradients of the others count as zero, whatever they are.
        """
        parts = (
            (self.stack.weight, self.directions[0], rates.weight, rates.weight_decay),
            (self.stack.bias, self.directions[1], rates.bias, rates.bias_decay),
        )
        whole = bool(alive.all())
        for parameter, direction, _, decay in parts:
            gradient = parameter.grad
            assert gradient is not None
            places = (..., *[None] * (gradient.ndim - 2))
            if not whole:
                gradient = torch.where(alive[places], gradient, 0.0)
            direction.grad = gradient if self.apart or not decay.any() else gradient + decay[places] * parameter
            parameter.grad = None
        self.optimizer.step()
        for parameter, direction, rate, decay in parts:
            places = (..., *[None] * (parameter.ndim - 2))
            if self.apart and decay.any():
                parameter *= 1 - (rate * decay)[places]
            parameter.addcmul_(direction, rate[places])
            direction.zero_()
