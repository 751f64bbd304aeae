"""A backbone cut into stages, for sharings that work between them.

Nothing here names a model: the submodules are put in a row in the order in which they were made, and noise is sent through
the row and through the backbone. Only where both give the very same features is the backbone taken to be such a row.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.models.encoder import Encoder

SIDE = 128  # of the noise: enough for a map of more than one place after five halvings, and for Inception's stem
# What backbones do between submodules, on the way from the last map to the features.
JOINTS: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "flatten": lambda x: x.flatten(1),
    "pool": lambda x: nn.functional.adaptive_avg_pool2d(x, 1).flatten(1),
    "mean": lambda x: x.mean((2, 3)),
}


@dataclass(frozen=True)
class Stages:
    """Where to cut a backbone. It holds names alone, so that it serves every copy of the backbone.

    Arguments:
        parts: by stage, the names of the submodules that run one after another.
        channels: by stage, C of the map (n, C, h, w) that it gives.
        tail: the submodules from the last map to the features.
        joint: the one of `JOINTS` that comes before `tail[at]` (after all of them where `at` is their number).
    """

    parts: list[list[str]]
    channels: list[int]
    tail: list[str] = field(default_factory=list)
    joint: str = "nothing"
    at: int = 0

    def __len__(self) -> int:
        return len(self.parts)

    def run(self, module: nn.Module, stage: int, map: Tensor) -> Tensor:
        """The map (n, C, h, w) that a stage of the backbone `module` makes of the one before it, or of the images."""
        return _row(module, self.parts[stage], map)

    @property
    def row(self) -> list[str]:
        """The names of the submodules of all stages, in order."""
        return [name for part in self.parts for name in part]

    def before(self, module: nn.Module, at: int, input: Tensor) -> Tensor:
        """The map that the first `at` submodules of the row make of images."""
        return _row(module, self.row[:at], input)

    def after(self, module: nn.Module, at: int, map: Tensor) -> Tensor:
        """Features (n, D) from the map that the first `at` submodules of the row gave."""
        return self.features(module, _row(module, self.row[at:], map))

    def features(self, module: nn.Module, map: Tensor) -> Tensor:
        """Features (n, D) from the last stage's map."""
        return _row(module, self.tail[self.at :], JOINTS[self.joint](_row(module, self.tail[: self.at], map)))


def stages(encoder: Encoder, sharing: str) -> Stages:
    """The stages of a convolutional backbone: from one halving of the map to the next, the stem with the first blocks.

    Arguments:
        sharing: who asks, for the message.

    Raises ConfigError for a backbone that is no row of submodules with maps (n, C, h, w) between them.
    """
    module = copy.deepcopy(encoder.module).eval()
    refusal = ConfigError(
        f"'sharing={sharing}' works between the stages of a backbone, and {encoder.name or 'this model'} "
        f"({type(module).__name__}) cannot be cut into stages. Use a chain of convolutions (model=small_cnn, "
        "model=resnet18, model=efficientnet_lite0), or sharing=hard, none, mmoe or ple, which take every backbone."
    )
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    names = _pieces(module, encoder.blocks)
    covered = {id(p) for name in names for p in module.get_submodule(name).parameters()}
    if first is None or not all(id(p) in covered for p in module.parameters()):
        raise refusal
    # Noise, not blank images, which stay zero through fresh convolutions whatever lies between.
    noise = torch.randn(2, first.in_channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            found = _find(module, names, noise)
    except (
        Exception
    ) as error:  # a submodule that was never made to take what the one before it gives may raise anything
        raise refusal from error
    if found is None:
        raise refusal
    return found


def _row(module: nn.Module, names: Sequence[str], input: Tensor) -> Tensor:
    for name in names:
        input = module.get_submodule(name)(input)
    return input


def _pieces(module: nn.Module, blocks: Sequence[str], prefix: str = "") -> list[str]:
    """The submodules in order; a `Sequential` that holds several of the backbone's blocks is opened up."""
    found = []
    for name, child in module.named_children():
        opened = isinstance(child, nn.Sequential) and any(b.startswith(f"{prefix}{name}.") for b in blocks)
        found += _pieces(child, blocks, f"{prefix}{name}.") if opened else [f"{prefix}{name}"]
    return found


def _find(module: nn.Module, names: list[str], noise: Tensor) -> Stages | None:
    """The stages and the tail that give what `module` gives; None where there are none."""
    parts: list[list[str]] = []
    map, tall, height = noise, torch.cat([noise, noise], 2), noise.shape[2]
    channels: dict[str, int] = {}  # by the submodule that a map comes from
    for name in names:
        one, other = _row(module, [name], map), _row(module, [name], tall)
        # A map has its channels second and is larger for a larger image; what is not is pooled.
        if one.ndim != 4 or one.shape[1] != other.shape[1] or one.shape[2] >= other.shape[2]:
            break
        map, tall, smaller, height = one, other, one.shape[2] < height, one.shape[2]
        if not parts or (smaller and _has_parameters(module, parts[-1])):
            parts.append([])
        parts[-1].append(name)
        channels[name] = map.shape[1]
    if len(parts) > 1 and not _has_parameters(module, parts[-1]):  # a pooling at the end
        parts[-2:] = [parts[-2] + parts[-1]]
    if len(parts) > 1 and _is_plain(module, parts[0]) and not _is_plain(module, parts[1]):  # a stem before blocks
        parts[:2] = [parts[0] + parts[1]]
    while parts and _is_idle(module.get_submodule(parts[-1][-1])):  # dropout after the last block is one of features
        channels.pop(parts[-1].pop())
        parts = [part for part in parts if part]
    if not parts:
        return None
    tail, expected = names[len(channels) :], module(noise)
    for at in range(len(tail) + 1):
        for joint in JOINTS:
            made = Stages(parts, [channels[part[-1]] for part in parts], tail, joint, at)
            try:
                if torch.equal(made.features(module, map), expected) and _trains_alike(made, module, noise):
                    return made
            except (RuntimeError, ValueError, TypeError, IndexError):  # not that joint
                continue
    return None


def _trains_alike(made: Stages, module: nn.Module, noise: Tensor) -> bool:
    """Whether the row gives the backbone's own features in training too, where dropout is at work."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        expected = module.train()(noise)
        torch.default_generator.manual_seed(0)
        map = noise
        for stage in range(len(made)):
            map = made.run(module, stage, map)
        found = made.features(module, map)
    module.eval()
    return torch.equal(found, expected)


def _has_parameters(module: nn.Module, names: Sequence[str]) -> bool:
    return any(True for name in names for _ in module.get_submodule(name).parameters())


def _is_idle(module: nn.Module) -> bool:
    leaves = [m for m in module.modules() if not any(m.children())]
    return all(isinstance(leaf, nn.Identity | nn.Dropout | nn.Dropout2d) for leaf in leaves)


def _is_plain(module: nn.Module, names: Sequence[str]) -> bool:
    """Whether none of the submodules holds more than one convolution."""
    return all(sum(isinstance(m, nn.Conv2d) for m in module.get_submodule(n).modules()) <= 1 for n in names)
