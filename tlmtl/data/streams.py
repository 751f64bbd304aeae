"""Streams and batches: named flows of examples, and the plan of what each step draws from them.

What is drawn is a pure function of seed, stream and epoch, so that a resumed run sees what it would have seen.
"""

import copy
import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tlmtl.activations import Activations
from tlmtl.data.augment import augmentation
from tlmtl.data.decoded import READ_AT_ONCE, Resized
from tlmtl.data.feed import DEPTH
from tlmtl.data.images import Images
from tlmtl.preprocess import Normalize, Preprocess
from tlmtl.progress import counted
from tlmtl.store.rows import Rows


@dataclass
class Part:
    """What one stream gives to one batch.

    Arguments:
        input: what the backbone takes; only data, model families and task kinds look inside.
        targets: by task, (n,), or (n, K) for several labels. A task without a label in this part is left out.
        mask: by task, bool (n,): which of them have a label.
        index: int64 (n,): positions in the stream.
        labels: by task, how many examples have its label.
    """

    input: Any
    targets: dict[str, Tensor]
    mask: dict[str, Tensor]
    index: Tensor
    labels: dict[str, int] = field(default_factory=dict)

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.contiguous_format) -> "Part":
        move = {name: t.to(device) for name, t in self.targets.items()}
        masks = {name: t.to(device) for name, t in self.mask.items()}
        input = self.input.to(device, memory_format=memory_format)
        for name in self.targets:
            if self.targets[name] is self.input:  # what is to be reconstructed
                move[name] = input
        return Part(input, move, masks, self.index, self.labels)

    def chunks(self, n: int) -> list["Part"]:
        """This part in at most `n` pieces of nearly equal length."""
        if n == 1:
            return [self]
        pieces = []
        for where in torch.arange(len(self.index)).tensor_split(min(n, len(self.index))):
            masks = {name: mask[where] for name, mask in self.mask.items()}
            labels = {name: count for name, mask in masks.items() if (count := int(mask.sum()))}
            pieces.append(
                Part(
                    self.input[where],
                    {name: self.targets[name][where] for name in labels},
                    {name: masks[name] for name in labels},
                    self.index[where],
                    labels,
                )
            )
        return pieces


Batch = dict[str, Part]


class Stream:
    """One split of one data set as a model takes it: pre-processed, with the targets of the chosen tasks.

    Arguments:
        images: all images of the data set.
        where: int64 (n,): which of them this stream holds.
        targets, mask: by task, (n,), aligned with `where`; targets are (n, K) for several labels.
        preprocess: what the model's parameters expect.
        augment: name of the random augmentation of training batches.
        keep: read all images when the first is wanted and keep them, resized; else each is read when a batch wants it, and
            what is in memory does not grow with the data set.
        of_input: tasks whose target is the input itself (reconstruction).
        part: of which part of a joint data set.
        resized: the images as the cache keeps them for all runs; None to decode each when it is read.
    """

    def __init__(
        self,
        name: str,
        images: Images,
        where: Tensor,
        targets: dict[str, Tensor],
        mask: dict[str, Tensor],
        preprocess: Preprocess,
        augment: str = "none",
        keep: bool = True,
        of_input: Collection[str] = (),
        part: str = "",
        resized: Resized | None = None,
    ) -> None:
        self.name, self.images, self.where = name, images, where
        self.targets, self.mask, self.preprocess = targets, mask, preprocess
        self.of_input, self.part_name = of_input, part
        self.complete = {task: bool(there.all()) for task, there in mask.items()}
        self.normalize, self.augment = Normalize(preprocess), augmentation(augment)
        self.keep, self.resized = keep and len(where) > 0, resized if len(where) else None
        self.lookahead = 0 if self.keep else DEPTH
        self.known: Callable[[Tensor, torch.Generator | None], Activations] | None = None

    def __len__(self) -> int:
        return len(self.where)

    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of its images, resized."""
        return tuple(self.images.read(self.where[:1], self.preprocess).shape[1:])

    def as_activations(
        self, known: Callable[[Tensor, torch.Generator | None], Activations], in_memory: bool
    ) -> "Stream":
        """This stream, giving what a frozen backbone made of its examples in place of the images, which are not read.

        Arguments:
            known: from indices (n,), and the generator of a training batch, to their activations.
        """
        other = copy.copy(self)
        other.known, other.lookahead = known, 0 if in_memory else DEPTH
        return other

    def passing(self) -> "Stream":
        """This stream, each of whose images is read when it is wanted and not kept."""
        if "kept" in vars(self):
            return self
        other = copy.copy(self)
        other.keep, other.resized, other.lookahead = False, None, DEPTH
        return other

    @cached_property
    def kept(self) -> Tensor | Rows | None:
        """All images, uint8 (n, C, H, W), in memory or in files of the cache; None where each is read when a batch wants it."""
        if self.resized is not None and (found := self.resized.rows(self.where.numpy(), self.keep)) is not None:
            return found
        if not self.keep:
            return None
        first = self.images.read(self.where[:1], self.preprocess)
        kept = torch.empty(len(self), *first.shape[1:], dtype=torch.uint8)
        with counted(len(self), "Reading images") as tell:
            for at in torch.arange(len(self)).split(READ_AT_ONCE):
                kept[at] = self.images.read(self.where[at], self.preprocess)
                tell(len(at))
        return kept

    def ready(self) -> None:
        """Read now what would else be read when the first batch wants it."""
        if self.known is None:
            _ = self.kept

    def input(self, indices: Tensor, generator: torch.Generator | None = None) -> Any:
        """What the backbone takes of the examples at `indices`; augmented when a generator is given."""
        if self.known is not None:
            return self.known(indices, generator)
        kept = self.kept
        pixels = self.images.read(self.where[indices], self.preprocess) if kept is None else kept[indices]
        return self.normalize(pixels if generator is None else self.augment(pixels, generator))

    def part(self, indices: Tensor, generator: torch.Generator | None = None) -> Part:
        """The examples at `indices` (n,); augmented when a generator is given, as in training."""
        mask = {task: there[indices] for task, there in self.mask.items()}
        found = {task: len(indices) if self.complete[task] else int(mask[task].sum()) for task in mask}
        labels = {task: count for task, count in found.items() if count}
        input = self.input(indices, generator)
        return Part(
            input,
            {task: input if task in self.of_input else self.targets[task][indices] for task in labels},
            {task: mask[task] for task in labels},
            indices,
            labels,
        )


def seed_for(*words: object) -> int:
    """A 63-bit seed from a few words: the same words, the same seed, on every machine."""
    digest = hashlib.blake2b("/".join(map(str, words)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator_for(*words: object) -> torch.Generator:
    return torch.Generator().manual_seed(seed_for(*words))


def steps_per_epoch(size: int, batch_size: int) -> int:
    return max(1, -(-size // batch_size))


def plan(
    sizes: Mapping[str, int], batch_size: int, seed: int, epoch: int, weights: Tensor | None = None
) -> list[dict[str, Tensor]]:
    """What each step of an epoch draws: a list of {stream: indices}.

    An epoch is one pass over the stream `target`, in batches of nearly equal length (so that none of three or more is
    left with a single example, which batch norm cannot take). With `weights` (n,), which need not sum to 1, it is as many
    examples drawn with replacement, each as likely as its weight says. Other streams go on from where they were and start
    again when they end.
    """
    steps = steps_per_epoch(sizes["target"], batch_size)
    drawn: list[dict[str, Tensor]] = [{} for _ in range(steps)]
    for name, size in sizes.items():
        if name == "target":
            flow = order(seed, name, epoch, size) if weights is None else draws(seed, name, epoch, weights)
            for step, part in enumerate(flow.tensor_split(steps)):
                drawn[step][name] = part
            continue
        for step in range(steps):
            first = (epoch * steps + step) * batch_size
            passes = range(first // size, (first + batch_size - 1) // size + 1)
            flow = torch.cat([order(seed, name, number, size) for number in passes])
            drawn[step][name] = flow[first - passes.start * size :][:batch_size]
    return drawn


def order(seed: int, stream: str, number: int, size: int) -> Tensor:
    """The order in which a stream's examples come in its pass `number`: int64 (size,)."""
    return torch.randperm(size, generator=generator_for("order", seed, stream, number))


def draws(seed: int, stream: str, number: int, weights: Tensor) -> Tensor:
    """As many examples as there are, drawn with replacement, each as likely as its weight (n,) says: int64 (n,)."""
    generator = generator_for("draws", seed, stream, number)
    return torch.multinomial(weights, len(weights), replacement=True, generator=generator)
