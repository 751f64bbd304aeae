"""The frozen part of a run's backbone: what it gives for each image is computed once, and kept in the cache.

A run's training is a row of phases: while a lower part of the backbone (or all of it) is frozen, its streams give what that
part made of the images, and the rest of the model goes on from there.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tlmtl.activations import Activations
from tlmtl.data.dataset import Data
from tlmtl.data.streams import Stream
from tlmtl.errors import ConfigError
from tlmtl.features import engines
from tlmtl.features.cuts import Cut
from tlmtl.features.extract import Extractor, Run
from tlmtl.hardware import Machine
from tlmtl.store.rows import Found, Rows
from tlmtl.training import Setup

CACHE = ("auto", "always", "never")


def why_not(run: Run, drawn: int) -> str:
    """Why the activations of a frozen backbone cannot be kept, or "" when they can, or when nothing is frozen.

    Arguments:
        drawn: how many training examples the run draws.

    Raises ConfigError for a wrong setting, and with `features.cache=always` for any reason not to.
    """
    settings = run.cfg.features
    if settings.cache not in CACHE:
        raise ConfigError(f"'features.cache' should be one of {', '.join(CACHE)}. Found '{settings.cache}'.")
    engines.check(settings.engine)
    if settings.views is not None and settings.views < 1:
        raise ConfigError(f"'features.views' should be 1 or more, or null for none. Found {settings.views}.")
    if settings.memory_mb < 0:
        raise ConfigError(f"'features.memory_mb' should be 0 or more megabytes. Found {settings.memory_mb}.")
    reason = _reason(run, drawn)
    if settings.cache == "always" and (reason or not run.cuts):
        raise ConfigError(
            "'features.cache=always' cannot be done here: " + (reason or "no part of the backbone is frozen") + "."
        )
    return reason if run.cuts else ""


def _reason(run: Run, drawn: int) -> str:
    settings = run.cfg.features
    if settings.cache == "never":
        return "features.cache=never"
    if run.model.between_stages:
        return f"sharing={run.cfg.composed.choices.get('sharing')} works between the stages of the backbone"
    if run.terms:
        return f"the term {next(iter(run.terms))} looks into the model"
    if any(task.of_input for data in run.data.values() for task in data.tasks.values()):
        return "a reconstruction needs the images themselves"
    augmented = [data for data in run.data.values() if data.augment != "none"]
    if augmented and settings.views is None:
        return (
            f"with dataset.augment={augmented[0].augment} every epoch sees other images. Two ways out: dataset.augment=none, "
            "or features.views=4, which keeps so many augmented views of each training image"
        )
    examples = sum(len(data.splits["train"]) for data in run.data.values())
    if settings.cache == "auto" and drawn < examples and run.solver is None:
        return "the run draws fewer examples than there are"
    return ""


class Frozen:
    """What a run's frozen parts give for its images, computed once.

    Arguments:
        made: the run's set-up, on images.
        cache: the folder of everything that is kept.
        beside: that of a run which differs from this one in its head alone: the two have theirs in common.
    """

    def __init__(self, run: Run, made: Setup, machine: Machine, cache: Path, beside: "Frozen | None" = None) -> None:
        self.run, self.made, self.machine, self.cache = run, made, machine, cache
        self.cuts = [] if why_not(run, made.total * run.cfg.train.batch_size) else run.cuts
        # by the step at which a cut begins
        self.extractors: dict[int, Extractor] = {} if beside is None else beside.extractors
        self.found: dict[tuple[Any, ...], Found] = (
            {} if beside is None else beside.found
        )  # by all that tells rows apart
        self.asked: dict[tuple[Any, ...], float] = {}  # those that this run has asked for, and what computing them took

    @property
    def seconds(self) -> float:
        """What computing all this took, whenever that was."""
        return sum(self.asked.values())

    @property
    def engine(self) -> str | None:
        """What computed the activations: the name of the engine."""
        return next((one.names[0] for one in self.extractors.values() if one.fits), None)

    def phases(self, step: int) -> Iterator[Setup]:
        """The set-ups by which the run is trained from `step` on, one after another, each until its end."""
        total, at = self.made.total, 0
        for cut in self.cuts:
            if at < cut.start and step < cut.start:
                yield dataclasses.replace(self.made, until=cut.start)
            if step < cut.until:
                yield self._phase(cut)
                if cut.until < total:  # nothing asks for these again, and maps may take gigabytes
                    for key in [key for key in self.found if key[0] == cut.start]:
                        del self.found[key]
            at = cut.until
        if at < total:
            yield self.made

    def _phase(self, cut: Cut) -> Setup:
        made = self.made
        streams = {name: self._known(one, self.run.data[name], "train", cut) for name, one in made.streams.items()}
        validation = {name: self._known(one, self.run.data[name], "val", cut) for name, one in made.validation.items()}
        return dataclasses.replace(
            made,
            streams=streams,
            validation=validation,
            lookahead=max(stream.lookahead for stream in streams.values()),
            forward=made.forward if streams == made.streams else None,  # what is compiled takes images
            until=cut.until,
        )

    def stream(self, stream: Stream, data: Data, split: str) -> Stream:
        """`stream`, giving activations in place of images where the run's last step has them."""
        last = self.cuts[-1] if self.cuts else None
        return stream if last is None or last.until < self.made.total else self._known(stream, data, split, last)

    def _known(self, stream: Stream, data: Data, split: str, cut: Cut) -> Stream:
        if not len(stream):
            return stream
        extractor = self.extractors.get(cut.start)
        if extractor is None:
            extractor = self.extractors[cut.start] = Extractor(self.run, cut, self.machine, stream, self.cache)
        if not extractor.fits:
            return stream
        hashes = data.examples.hashes[data.splits[split]]
        views = (self.run.cfg.features.views or 0) if data.augment != "none" and split == "train" else 0
        # Images that nothing else will ask for are not held in memory.
        images = stream.passing() if cut.whole and cut.until == self.made.total else stream
        rows = []
        for view in range(views) if views else (None,):
            key = (cut.start, view, repr(stream.preprocess), hashlib.blake2b(hashes.tobytes()).digest())
            if key not in self.found:
                self.found[key] = extractor.rows(images, hashes, data, view)
            self.asked[key] = self.found[key].seconds
            rows.append(self.found[key].rows)
        return stream.as_activations(
            lambda at, random: Activations(_pick(rows, at, random), cut.rest), extractor.in_memory
        )


def _pick(rows: list[Rows], at: Tensor, random: torch.Generator | None) -> Tensor:
    """The rows at `at` (n,), each of a view drawn at random where there are several."""
    if len(rows) == 1 or random is None:
        return rows[0][at]
    view = torch.randint(len(rows), (len(at),), generator=random)
    found = rows[0][at]
    for number in range(1, len(rows)):
        found[view == number] = rows[number][at[view == number]]
    return found
