"""Each task's own gradient, at the features or at the shared parameters, and ways to put one vector in the place of their sum
while the heads get the plain gradient of their own loss."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError

LEVELS = ("features", "parameters")


def check_level(level: str) -> str:
    if level not in LEVELS:
        raise ConfigError(f"'weighting.level' should be {' or '.join(LEVELS)}. Found '{level}'.")
    return level


def rows_at_features(
    losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter], features: Tensor | None
) -> Tensor | None:
    """The gradient of each loss at `features` (n, D), in float32: (K, n * D). None where nothing shared trains.

    Raises ConfigError where there is no one feature tensor, or a loss does not depend on it.
    """
    if features is None:
        raise ConfigError(
            "'weighting.level=features' needs one feature tensor that all heads take, and this model has none. Use "
            "weighting.level=parameters."
        )
    if not shared or not features.requires_grad:
        return None
    rows = torch.empty(len(losses), features.numel(), device=features.device)
    for row, (name, loss) in zip(rows, losses.items(), strict=True):
        (gradient,) = torch.autograd.grad(loss, features, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise ConfigError(
                f"'weighting.level=features': the loss of task '{name}' does not depend on the shared features (a compiled "
                "model hides them). Use weighting.level=parameters."
            )
        row.copy_(gradient.reshape(-1))
    return rows


def through_features(losses: Mapping[str, Tensor], extra: Tensor | None, features: Tensor, gradient: Tensor) -> None:
    """One backward pass of sum_k L_k + extra, in which the losses' part of what arrives at `features` is `gradient`.

    Arguments:
        gradient: n * D numbers.
    """
    instead = gradient.view_as(features).to(features.dtype)
    parts = list(losses.values())
    if extra is not None:
        parts.append(extra)
        (theirs,) = torch.autograd.grad(extra, features, retain_graph=True, allow_unused=True)
        instead = instead if theirs is None else instead + theirs
    hook = features.register_hook(lambda _: instead)
    try:
        torch.stack(parts).sum().backward()
    finally:
        hook.remove()


def rows_at_parameters(losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter]) -> Tensor:
    """The gradient of each loss at the `shared` parameters, (K, P), in their order. What is not shared gets its gradient added
    to `.grad`; that of `shared` is left as it was. The graph is kept."""
    kept = [parameter.grad for parameter in shared]
    rows = torch.empty(len(losses), sum(p.numel() for p in shared), device=shared[0].device)
    for row, loss in zip(rows, losses.values(), strict=True):
        for parameter in shared:
            parameter.grad = None
        loss.backward(retain_graph=True)
        torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in shared], out=row)
    for parameter, gradient in zip(shared, kept, strict=True):
        parameter.grad = gradient
    return rows


def weighted_at_parameters(losses: Mapping[str, Tensor], weights: Tensor, shared: Sequence[nn.Parameter]) -> None:
    """Add the gradient of sum_k w_k L_k to `shared`, and that of sum_k L_k to what else the losses depend on: one pass through
    what is shared. The graph is kept."""
    stacked = torch.stack(list(losses.values()))
    weighted = (weights.to(stacked) * stacked).sum()
    found = torch.autograd.grad(weighted, shared, retain_graph=True, allow_unused=True)
    if others := _leaves(stacked, shared):
        torch.autograd.backward(stacked.sum(), inputs=others, retain_graph=True)
    for parameter, gradient in zip(shared, found, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def add_rows(shared: Sequence[nn.Parameter], gradient: Tensor) -> None:
    """Add `gradient` (P,) to the `.grad` of `shared`, in their order."""
    for parameter, part in zip(shared, gradient.split([p.numel() for p in shared]), strict=True):
        part = part.view(parameter.shape).to(parameter.dtype)
        parameter.grad = part if parameter.grad is None else parameter.grad + part


def _leaves(output: Tensor, but: Sequence[nn.Parameter]) -> list[Tensor]:
    """The tensors that gradients of `output` end at, but for those named."""
    seen = {output.grad_fn}
    todo, found = [output.grad_fn], []
    known = {id(p) for p in but}
    while todo:
        node = todo.pop()
        assert node is not None
        variable = getattr(node, "variable", None)  # of the nodes that add to `.grad`
        if variable is not None and id(variable) not in known:
            found.append(variable)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return found
