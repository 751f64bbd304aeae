"""A backbone and what is known about it: every model family hands over one `Encoder`."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tlmtl.activations import Activations
from tlmtl.errors import ConfigError, nearest
from tlmtl.preprocess import Preprocess


@dataclass
class Output:
    """What a model gives for one input.

    Arguments:
        features: (n, D), of the shared encoder; of the first task's where each task has its own.
        layers: those that were asked for, by name.
        heads: by task, the head's output.
        own: by task, features and layers of its own encoder, where each task has one (`sharing=none`, cross-stitch).
    """

    features: Tensor
    layers: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)
    own: dict[str, "Output"] = field(default_factory=dict)

    def of(self, task: str) -> "Output":
        """What the encoder of `task` gives: its own, or the shared one."""
        return self.own.get(task, self)

    def encoders(self) -> list["Output"]:
        """What each encoder gives: one output, or one for each task that has an encoder of its own."""
        return list(self.own.values()) or [self]


@dataclass
class Encoder:
    """The shared encoder E: input -> features (n, D).

    Arguments:
        module: the backbone; its parameters keep their family's own names.
        feature_size: D.
        preprocess: what the parameters expect of an image.
        blocks: names of submodules from the input to the features; each can be asked for as a layer.
        threads: how many threads it is worth running on; None for all cores.
        memory_format: in which one its operations are fastest on a CPU: contiguous | channels_last.
        fetch: the family's own pre-trained weights by name, as a state dict and what they expect of an image.
        name: `FAMILY/NAME` of a library's model (`timm/resnet18`); empty for others.
    """

    module: nn.Module
    feature_size: int
    preprocess: Preprocess
    blocks: list[str]
    threads: int | None = None
    memory_format: str = "contiguous"
    fetch: Callable[[str], tuple[dict[str, Tensor], Preprocess]] | None = None
    name: str = ""

    def blank(self, count: int = 1) -> Tensor:
        """Blank square images (count, C, side, side) as the backbone takes them."""
        convolutions = [module for module in self.module.modules() if isinstance(module, nn.Conv2d)]
        channels = convolutions[0].in_channels if convolutions else len(self.preprocess.mean)
        return torch.zeros(count, channels, *[self.preprocess.crop or self.preprocess.resize] * 2)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode while `with` lasts; then every submodule's mode is what it was."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def encode(module: nn.Module, input: Any, layers: Sequence[str] = ()) -> Output:
    """Features of `input`, and the outputs of the submodules named in `layers`. Activations are gone on with from where they
    were taken."""
    run = input.through if isinstance(input, Activations) else lambda backbone: backbone(input)
    if not layers:
        return Output(run(module))
    with recorded(module, layers) as found:
        features = run(module)
    return Output(features, found)


@contextmanager
def recorded(module: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What the submodules named in `layers` give while this lasts, by name, as it comes."""
    found: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            found[name] = first.clone()  # the next module may work in place

        return hook

    handles = [module.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def check_layers(blocks: list[str], layers: Sequence[str]) -> None:
    for layer in layers:
        if layer not in blocks:
            raise ConfigError(f"Unknown layer '{layer}'.{nearest(layer, blocks)} This model has: {', '.join(blocks)}.")


def find_blocks(module: nn.Module) -> list[str]:
    """Names of the submodules that follow one another: the children with parameters. A chain of blocks that stands alone
    (`features`, `blocks`, `encoder.layers`) is opened up; chains that follow one another (`layer1`, `layer2`, ...) are not.
    """
    names: list[str] = []
    total = _size(module)

    def walk(part: nn.Module, prefix: str) -> None:
        children = [(name, child) for name, child in part.named_children() if _size(child)]
        chains = [child for _, child in children if _is_chain(child)]
        for name, child in children:
            opened = _is_chain(child) and len(chains) <= 2
            holds = _size(child) > total / 2 and any(_is_chain(c) for c in child.children()) and not _is_chain(child)
            if (opened or holds) and not _is_chain(part):
                walk(child, f"{prefix}{name}.")
            else:
                names.append(f"{prefix}{name}")

    walk(module, "")
    return names


def find_memory_format(module: nn.Module) -> str:
    """The memory format in which a large backbone is fastest on a CPU (docs/performance.md): channels last where it
    convolves more than the patches of an image."""
    convolutions = sum(isinstance(part, nn.Conv2d) for part in module.modules())
    return "channels_last" if convolutions > 1 else "contiguous"


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _is_chain(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList) and len(module) > 1


@torch.no_grad()
def find_feature_size(module: nn.Module, preprocess: Preprocess, channels: int) -> int:
    """D, found by running one blank image. Raises ConfigError when the output is not (n, D)."""
    side = preprocess.crop or preprocess.resize
    with evaluating(module):
        features = module(torch.zeros(1, channels, side, side))
    if features.ndim != 2:
        raise ConfigError(
            f"A backbone should give features (n, D). {type(module).__name__} gave {tuple(features.shape)}."
        )
    return features.shape[1]
