"""Source parameters: where they come from, how they get into the target's backbone, and a report of what did."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from tlmtl.errors import ConfigError
from tlmtl.models.by_task import part_of
from tlmtl.models.digest import hash_state
from tlmtl.models.encoder import Encoder
from tlmtl.models.saved import read_model, read_record
from tlmtl.preprocess import Preprocess

# The tensors of a saved model that hold the hashes of the images it was trained on, and of those it was chosen by.
SEEN, CHOSEN = "tlmtl.seen_inputs", "tlmtl.chosen_inputs"
PREFIX = "backbone."


@dataclass
class Source:
    """Pre-trained parameters of a backbone.

    Arguments:
        state: parameters and buffers by the backbone's own names.
        preprocess: what they expect of an image; None for what the model says itself.
        seen: int64 hashes of the images they were trained on; None where nobody knows.
        chosen: int64 hashes of the images that their epoch was chosen by.
        seconds: what the pre-training cost, from its own record; None where nobody knows.
    """

    state: dict[str, Tensor]
    preprocess: Preprocess | None = None
    seen: np.ndarray | None = None
    seconds: float | None = None
    min_loaded: float = 0.9
    partial: bool = False
    about: str = ""
    chosen: np.ndarray | None = None

    @cached_property
    def hash(self) -> str:
        return hash_state(self.state)


@dataclass
class Report:
    """What was loaded, skipped and why; `share` is of the backbone's parameters, by count; `source` is what it came from."""

    share: float
    loaded: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    source: str = ""

    def line(self) -> str:
        parts = [f"{self.share:.0%} of the backbone's parameters loaded"]
        parts += [f"{name}: {how}" for name, how in list(self.adapted.items())[:3]]
        if self.skipped:
            parts.append(
                f"{len(self.skipped)} skipped ({'; '.join(f'{k}: {v}' for k, v in list(self.skipped.items())[:3])})"
            )
        if self.missing:
            parts.append(f"{len(self.missing)} left as initialised ({', '.join(self.missing[:3])})")
        return "; ".join(parts)


def no_source() -> None:
    """`source=none`."""


def from_run(path: str, min_loaded: float = 0.9, partial: bool = False, task: str | None = None) -> Source:
    """`source=run`: the backbone of a finished run.

    Arguments:
        path: the run's folder.
        task: whose encoder, where each task of that run had its own (sharing=none, cross_stitch); where they shared one,
            it is that one for every task.
        min_loaded: share of the target backbone's parameters, 0 to 1, below which loading is an error.
        partial: also copy the overlapping part of parameters whose shapes differ.

    Raises ConfigError for a folder that is no finished run or is broken, a task that the run had not, and none where one is
    to be chosen.
    """
    check_share(min_loaded)
    folder = Path(path).expanduser()
    record = read_record(folder)
    tensors, meta = read_model(folder)
    state = {name.removeprefix(PREFIX): t for name, t in tensors.items() if name.startswith(PREFIX)}
    if not state:
        raise ConfigError(f"The source run {folder} has no backbone in its model.safetensors.")
    about, told = f"run {folder.name}", meta.get("tasks")
    tasks = list(told) if isinstance(told, dict) else []
    if task is not None and task not in tasks:
        raise ConfigError(
            f"'source.task' should be a task of the source run {folder}: {', '.join(tasks)}. Found '{task}'."
        )
    if own := _with_encoders(state, tasks):
        if task is None and len(own) > 1:
            raise ConfigError(
                f"Each task of the source run {folder} has an encoder of its own: {', '.join(own)}. Choose one, such as "
                f"source.task={own[0]}."
            )
        prefix = f"{part_of(task or own[0])}."
        state = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        about = f"{about}, task {task or own[0]}"
    seen, chosen = (tensors[name].numpy() if name in tensors else None for name in (SEEN, CHOSEN))
    seconds = (record.get("costs") or {}).get("train_seconds")
    return Source(state, meta["preprocess"], seen, seconds, min_loaded, partial, about, chosen)


def _with_encoders(state: dict[str, Tensor], tasks: list[str]) -> list[str]:
    """The tasks that have an encoder of their own: all or none. Their names then come first in those of the parameters."""
    prefixes = tuple(f"{part_of(task)}." for task in tasks)
    return tasks if prefixes and all(name.startswith(prefixes) for name in state) else []


def from_pretraining(
    dataset: dict,
    optimizer: dict,
    schedule: dict,
    train: dict,
    tasks: Any = "default",
    seed: int = 0,
    min_loaded: float = 0.9,
    partial: bool = False,
    path: str | None = None,
) -> Source:
    """`source=pretrain`: a run on a source data set, made beforehand by `pretrain.py`, which fills in `path`.

    Arguments:
        tasks: what is learned of the source data: default, all, or names, as `tasks` selects them.
    """
    if path is None:
        raise ConfigError("'source=pretrain' has not been trained yet: use tlmtl.run(), which does that first.")
    return from_run(path, min_loaded, partial)


def from_weights(weights: str = "DEFAULT", min_loaded: float = 0.9, *, encoder: Encoder) -> Source:
    """`source=imagenet`: the weights that torchvision or timm offer for the model. Fetched once, then kept by them.

    Raises ConfigError for a model without such weights, and where they cannot be fetched.
    """
    if encoder.fetch is None:
        raise ConfigError(
            "'source=imagenet' needs a model of torchvision or timm, such as model=resnet18; this model has no such weights. "
            "source=pretrain trains it on a source data set."
        )
    try:
        state, preprocess = encoder.fetch(weights)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"The weights could not be fetched ({type(error).__name__}: {error}). They need a network the first time; "
            "without one, use source=pretrain or source=run."
        ) from error
    except (KeyError, ValueError, AttributeError) as error:
        raise ConfigError(f"'source.weights={weights}' is not among the weights of this model: {error}") from error
    return Source(state, preprocess, min_loaded=min_loaded, about=f"weights {weights}")


def check_share(min_loaded: float) -> None:
    if not 0 <= min_loaded <= 1:
        raise ConfigError(f"'source.min_loaded' should be a share from 0 to 1. Found {min_loaded}.")


def load_into(backbone: nn.Module, source: Source) -> Report:
    """Copy the source's parameters into `backbone`, by name.

    The first convolution is adapted to another number of input channels: one channel repeated and divided (which is the
    old filter on the channels' mean), or several summed (the old filter on a grey picture).

    Raises ConfigError when less than `source.min_loaded` of the backbone's parameters got loaded.
    """
    own = backbone.state_dict()
    parameters = {name: p.numel() for name, p in backbone.named_parameters()}
    report, count, values = Report(0.0, source=source.about), 0, {}
    for name, mine in own.items():
        if name not in source.state:
            report.missing.append(name)
            continue
        theirs = source.state[name]
        if theirs.shape == mine.shape:
            values[name], share = theirs, 1.0
        elif (adapted := _other_channels(theirs, mine)) is not None:
            values[name], share = adapted, 1.0
            report.adapted[name] = f"{theirs.shape[1]} -> {mine.shape[1]} input channels"
        elif source.partial and theirs.ndim == mine.ndim:
            overlap = tuple(slice(0, min(a, b)) for a, b in zip(theirs.shape, mine.shape, strict=True))
            values[name] = mine.clone()
            values[name][overlap] = theirs[overlap].to(mine.dtype)
            share = values[name][overlap].numel() / max(1, mine.numel())
            report.adapted[name] = f"overlap of {tuple(theirs.shape)} and {tuple(mine.shape)}"
        else:
            report.skipped[name] = f"shape {tuple(theirs.shape)}, expected {tuple(mine.shape)}"
            continue
        report.loaded.append(name)
        count += round(parameters.get(name, 0) * share)
    report.skipped.update({name: "not in this model" for name in source.state if name not in own})
    report.share = count / max(1, sum(parameters.values()))
    if report.share < source.min_loaded:
        raise ConfigError(
            f"The source ({source.about}) does not fit this model: {report.line()}. Expected at least "
            f"{source.min_loaded:.0%} (source.min_loaded). Use the model that the source was trained with"
            f"{'' if source.partial else ', or source.partial=true'}."
        )
    backbone.load_state_dict({**own, **values})
    return report


def _other_channels(theirs: Tensor, mine: Tensor) -> Tensor | None:
    if theirs.ndim != 4 or theirs.shape[:1] + theirs.shape[2:] != mine.shape[:1] + mine.shape[2:]:
        return None
    if theirs.shape[1] == 1 and mine.shape[1] == 3:
        return theirs.expand_as(mine) / mine.shape[1]
    if theirs.shape[1] == 3 and mine.shape[1] == 1:
        return theirs.sum(1, keepdim=True)
    return None


def check_leak(source: Source, val: np.ndarray, test: np.ndarray) -> None:
    """Raises ConfigError when an image of the target's val or test split was in the source's training, or one of its test
    split among those that the source was chosen by.

    Arguments:
        val, test: hashes of the target's images, those of further test sets among the latter.
    """
    held_out = np.concatenate([val, test])
    for theirs, ours, what, how in (
        (source.seen, held_out, "validation and test", "in the source's training"),
        (source.chosen, test, "test", "among those that the source was chosen by"),
    ):
        common = 0 if theirs is None else int(np.isin(ours, theirs).sum())
        if common:
            raise ConfigError(
                f"{common} of the {len(ours)} {what} images were {how}, so the figures would flatter it. Use another "
                "source, or the same dataset.split_seed as the source had."
            )
