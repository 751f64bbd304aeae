"""Which part of a backbone is frozen, and for how long: what it gives can be computed once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.models.encoder import Encoder, evaluating
from tlmtl.models.stages import Stages, stages
from tlmtl.optim import Groups
from tlmtl.sharing.base import Sharing

LEAST = 0.1  # of a backbone's operations on an image that a frozen lower part must save for its maps to be kept


class Front(nn.Module):
    """The frozen part of a backbone: images (n, C, H, W) -> features (n, D), or the map (n, C, h, w) where it is cut."""

    def __init__(self, backbone: nn.Module, row: Stages | None, at: int) -> None:
        super().__init__()
        self.backbone, self.row, self.at = backbone, row, at

    def forward(self, input: Tensor) -> Tensor:
        return self.backbone(input) if self.row is None else self.row.before(self.backbone, self.at, input)

    def state(self) -> dict[str, Tensor]:
        """Its own parameters and buffers, by name."""
        state = self.backbone.state_dict()
        if self.row is None:
            return state
        names = tuple(f"{name}." for name in self.row.row[: self.at])
        return {name: tensor for name, tensor in state.items() if name.startswith(names)}


@dataclass(frozen=True)
class Cut:
    """For the steps from `start` up to, not including, `until`, nothing trains below a place in the backbone.

    Arguments:
        row: the backbone as a row of submodules; None where all of it is frozen.
        at: how many submodules of the row are.
    """

    start: int
    until: int
    row: Stages | None = None
    at: int = 0

    @property
    def whole(self) -> bool:
        return self.row is None

    @property
    def where(self) -> str:
        """The last submodule that is frozen, or `features`."""
        return "features" if self.row is None else self.row.row[self.at - 1]

    @property
    def rest(self) -> Callable[[nn.Module, Tensor], Tensor] | None:
        """From a backbone and a map to features; None where the features are kept."""
        return None if self.row is None else partial(_after, self.row, self.at)

    def front(self, backbone: nn.Module) -> Front:
        return Front(backbone, self.row, self.at)


def _after(row: Stages, at: int, module: nn.Module, map: Tensor) -> Tensor:
    return row.after(module, at, map)


def cuts(model: Sharing, encoder: Encoder, groups: Groups) -> list[Cut]:
    """The cuts of a run, one after another, as far as there are any: for the steps between two of them the whole model trains.

    A backbone that is no row of submodules (`models/stages.py`) is cut where all of it is frozen or not at all.
    """
    total, starts = groups.units.total, _starts(model, groups)
    if model.between_stages or not starts:
        return []
    borders = sorted({0, total, *(start for start in starts.values() if start < total)})
    found: list[Cut] = []
    row: Stages | None = None
    for start, until in pairwise(borders):
        if all(first >= until for first in starts.values()):
            cut = Cut(start, until)
        else:
            row = row or _row(encoder)
            at = _depth(encoder.module, row, starts, until) if row is not None else 0
            if not at or row is None or _share(encoder, row, at) < LEAST:
                continue
            cut = Cut(start, until, row, at)
        if found and (found[-1].until, found[-1].row, found[-1].at) == (cut.start, cut.row, cut.at):
            cut = Cut(found.pop().start, cut.until, cut.row, cut.at)
        found.append(cut)
    return found


def _starts(model: Sharing, groups: Groups) -> dict[str, int]:
    """By parameter name of one backbone, the first step at which any of its copies trains it."""
    found: dict[str, int] = {}
    skipped = 2 if model.separate else 1  # backbone.NAME, or backbone.TASK.NAME
    for name, start in groups.starts.items():
        if name.startswith("backbone."):
            own = name.split(".", skipped)[skipped]
            found[own] = min(start, found.get(own, start))
    return found


def _row(encoder: Encoder) -> Stages | None:
    try:
        return stages(encoder, "hard")
    except ConfigError:
        return None


def _depth(module: nn.Module, row: Stages, starts: dict[str, int], until: int) -> int:
    """How many submodules of the row nothing changes, and nothing random is in, before the step `until`."""
    for at, name in enumerate(row.row):
        mine = [start for own, start in starts.items() if own.startswith(f"{name}.")]
        if any(start < until for start in mine) or (not mine and _restless(module.get_submodule(name))):
            return at
    return len(row.row)


def _restless(module: nn.Module) -> bool:
    """Whether a module without parameters, which is in training mode when what is around it trains, differs there from
    evaluation: dropout of any kind, or a batch norm without parameters."""
    names = [type(one).__name__ for one in module.modules()]
    return any("drop" in name.lower() or "norm" in name.lower() or "Stochastic" in name for name in names)


def _share(encoder: Encoder, row: Stages, at: int) -> float:
    """The share of the backbone's operations on an image that its lower part takes."""
    blank = encoder.blank()
    whole, _ = operations(encoder.module, blank)
    return operations(Front(encoder.module, row, at), blank)[0] / max(1, whole)


def operations(module: nn.Module, input: Tensor) -> tuple[int, int]:
    """Floating-point operations with which `module` takes `input`: of linear layers and convolutions, and of convolutions.

    torch's own counter says the same of them (and counts attention's products of activations, which this does not); it takes
    as long to import as torch does.
    """
    counts = {True: 0, False: 0}

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer.weight, Tensor)
        counts[not isinstance(layer, nn.Linear)] += 2 * output.numel() * layer.weight[0].numel()

    layers = [one for one in module.modules() if isinstance(one, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad(), evaluating(module):
            module(input)
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts.values()), counts[True]
