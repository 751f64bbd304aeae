"""What the frozen part of a backbone gives for images: found in the cache, or computed now and kept there."""

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from tlmtl.data.dataset import Data
from tlmtl.data.feed import ahead
from tlmtl.data.streams import Stream, generator_for
from tlmtl.features.cuts import Cut
from tlmtl.features.engines import Engines, Unusable, version
from tlmtl.hardware import Machine
from tlmtl.models.digest import hash_state
from tlmtl.models.encoder import Encoder, evaluating
from tlmtl.sharing.base import Sharing
from tlmtl.store.rows import Found, Store

log = logging.getLogger("tlmtl")
CODE = 2  # the version of what is computed here: another one computes anew
# Images at once; the last batch is filled up, so that an image's features do not depend on its company. What a network makes of
# few of them stays in a processor's own cache; a GPU wants many.
BATCH = 8
ON_GPU = 64


class Run(Protocol):
    """What is looked at of a run's objects."""

    cfg: DictConfig
    data: dict[str, Data]
    encoder: Encoder
    model: Sharing
    terms: dict[str, Any]
    cuts: list[Cut]
    solver: Any  # finds the heads in place of the loop; None where there is none


class Extractor:
    """Activations at one cut of a run's backbone.

    Arguments:
        stream: one of the run's, for the shape of its images.
        cache: the folder of everything that is kept.

    Attributes:
        in_memory: whether those of all the run's images are held in memory.
        batch: how many images are computed at once.
        fits: whether they are to be kept at all: maps are where they can be held in memory.
    """

    def __init__(self, run: Run, cut: Cut, machine: Machine, stream: Stream, cache: Path) -> None:
        self.run, self.cut, self.machine, self.cache = run, cut, machine, cache
        self.front = cut.front(run.encoder.module)
        self.call: Callable[[Tensor], Tensor] = self._call
        settings = run.cfg.features
        self.shape = stream.shape()
        self.batch = BATCH if machine.device.type == "cpu" else ON_GPU
        row = self._call(stream.normalize(torch.zeros(1, *self.shape, dtype=torch.uint8))).numel() * 4
        images = sum(
            (settings.views or 1 if split == "train" and data.augment != "none" else 1) * len(where)
            for data in run.data.values()
            for split, where in data.splits.items()
        )
        self.in_memory = row * images <= settings.memory_mb * 2**20
        self.fits = cut.whole or self.in_memory
        image = self._input(stream.normalize(torch.zeros(1, *self.shape, dtype=torch.uint8)))
        self.engines = Engines(self.front, image, settings.engine, machine.plan["precision"], images, self._call)
        self.names = list(self.engines.names)  # the first of them that can be used; once it is known, that one alone
        if not self.fits:
            log.info(
                "What the frozen part of the backbone gives at %s takes %d MB, more than features.memory_mb=%d: it is "
                "computed in every step.", cut.where, row * images // 2**20, settings.memory_mb,
            )  # fmt: skip

    def rows(self, stream: Stream, hashes: np.ndarray, data: Data, view: int | None) -> Found:
        """What there is for the images of `stream`, whose hashes are `hashes` (n,).

        Arguments:
            view: which augmented view of each image; None for the images as they are.
        """
        limit, budget = self.run.cfg.output.cache_mb, self.run.cfg.features.memory_mb * 2**20 if self.in_memory else 0
        for name in self.names:
            store = Store(self.cache, "features", self._about(name, stream, data, hashes, view), limit)
            make = partial(self._make, name, stream, view)
            try:
                found = store.fetch(hashes, make, budget, f"Computing {self.cut.where}")
            except Unusable:
                if name == self.names[-1]:
                    raise
                continue
            break
        self.names = [name]
        self.engines.release()
        self.call = self._call  # nothing is held while the run trains
        if found.made:
            log.info(
                "%s of %d images computed once by %s and kept: %.1f s.",
                self.cut.where.capitalize(), found.made, name, found.seconds,
            )  # fmt: skip
        return found

    def _make(self, engine: str, stream: Stream, view: int | None, positions: np.ndarray) -> Iterator[np.ndarray]:
        """The activations of the stream's images at `positions`, batch by batch. Raises Unusable, before the first of them, for
        an engine that does not take this network."""
        self.call = self.engines.make(engine, self._batch(stream.input(torch.tensor([0]))))
        wanted = torch.from_numpy(np.asarray(positions, dtype=np.int64))
        with evaluating(self.front):
            if view is None:
                with closing(ahead(stream.input, wanted.split(self.batch), stream.lookahead)) as feed:
                    for input, _ in feed:
                        yield self._filled(input).numpy()
                return
            # Augmented views are drawn for batches of the stream, so that it does not matter which of them are missing.
            for number in torch.unique(wanted // self.batch).tolist():
                batch = torch.arange(number * self.batch, min((number + 1) * self.batch, len(stream)))
                made = self._filled(stream.input(batch, generator_for("view", view, number)))
                yield made[wanted[wanted // self.batch == number] - number * self.batch].numpy()

    def _filled(self, input: Tensor) -> Tensor:
        """The activations of (n, C, H, W), n up to `batch`, computed in a batch of that size."""
        return self.call(self._batch(input))[: len(input)]

    def _batch(self, input: Tensor) -> Tensor:
        """(n, C, H, W), filled up to `batch` images."""
        left = self.batch - len(input)
        return torch.cat([input, input[:1].expand(left, -1, -1, -1)]) if left else input

    def _input(self, images: Tensor) -> Tensor:
        return images.to(self.machine.device, memory_format=self.machine.memory_format)

    @torch.inference_mode()
    def _call(self, input: Tensor) -> Tensor:
        first = next(self.front.parameters())
        input = self._input(input)
        with evaluating(self.front), self.machine.autocast():
            made = self.front(input.to(first.dtype) if first.dtype == torch.bfloat16 else input)
        return made.float().cpu()

    def _about(self, engine: str, stream: Stream, data: Data, hashes: np.ndarray, view: int | None) -> dict[str, Any]:
        """All that the activations of an image depend on, beside its pixels."""
        images, plan = data.examples.images, self.machine.plan
        about = {
            "code": CODE,
            "model": OmegaConf.to_container(self.run.cfg.model, resolve=True),
            "parameters": self._state,
            "where": self.cut.where,
            "preprocess": asdict(stream.preprocess),
            "shape": list(self.shape),
            "channels": images.channels,
            "cropped": not getattr(images, "same_shape", True),
            "engine": [engine, version(engine)],
            **{key: plan[key] for key in ("device", "precision", "threads", "memory_format")},
        }
        if view is not None:
            about["view"] = [data.augment, view, hash_state({"hashes": torch.from_numpy(hashes)})]
        return about

    @cached_property
    def _state(self) -> str:
        return hash_state(self.front.state())
