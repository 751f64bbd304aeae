"""What a run stands on before it has heads: its data, its backbone, its source."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from tlmtl.checkpoint import seed_everything
from tlmtl.config import build
from tlmtl.data.dataset import Data
from tlmtl.data.further import further
from tlmtl.data.parts import TARGET, Joint, joint_of, streams_of
from tlmtl.data.streams import seed_for
from tlmtl.errors import ConfigError
from tlmtl.initial import source_of
from tlmtl.models.encoder import Encoder, check_layers
from tlmtl.models.source import Report, Source, check_leak, load_into
from tlmtl.tasks.imbalance import draw_weights, with_class_weights
from tlmtl.terms.base import Term, layers_of
from tlmtl.values import shown

if TYPE_CHECKING:
    from tlmtl.assemble import Assembly


@dataclass
class Ground:
    """Data, backbone and source of a run."""

    data: dict[str, Data]  # by stream: the parts of a joint data set, or the one called `target`
    encoder: Encoder
    joint: Joint | None  # what a joint data set says of its parts together
    further: dict[str, Data]  # test sets of other data, by name
    draw_weights: dict[str, torch.Tensor | None]  # by stream
    source: Source | None = None
    report: Report | None = None
    source_model: nn.Module | None = None


def ground_of(
    cfg: DictConfig, terms: Sequence[Term], with_source: bool, cache: Path, data_of: "Assembly | None" = None
) -> Ground:
    """Raises ConfigError for whatever a user can have got wrong of it.

    Arguments:
        data_of: where the data are, if they have been read already.
    """
    if data_of is not None:
        data, draws, also = data_of.data, data_of.draw_weights, data_of.further
    else:
        data, draws = _data(cfg, cache)
        also = _further(cfg, data, list(cfg.allow), cache)
    encoder = encoder_of(cfg, next(iter(data.values())).channels)
    found = Ground(data, encoder, joint_of(cfg.dataset, list(cfg.allow)), also, draws)
    check_layers(encoder.blocks, layers_of(terms))
    found.source = source = source_of(cfg, encoder, with_source)
    if cfg.strategy.init not in ("source", "random"):
        raise ConfigError(f"'strategy.init' should be source or random. Found '{cfg.strategy.init}'.")
    if source is not None:
        tested = [one.input_hashes("test") for one in (*data.values(), *also.values())]
        check_leak(source, np.concatenate([one.input_hashes("val") for one in data.values()]), np.concatenate(tested))
        filled = copy.deepcopy(encoder.module)
        found.report = load_into(filled, source)
        encoder.preprocess = source.preprocess or encoder.preprocess
        if any(term.needs.source_model for term in terms):
            found.source_model = copy.deepcopy(filled).eval().requires_grad_(False)
        if cfg.strategy.init == "source":
            encoder.module.load_state_dict(filled.state_dict())
    return found


def ground_like(cfg: DictConfig, other: "Assembly", cache: Path) -> Ground:
    """That of a run which differs from `other` in nothing but its head, how that trains, and which training examples are
    labelled: backbone and source are the same objects, and so are data and further test sets where nothing of them differs."""
    if _data_settings(cfg) == _data_settings(other.cfg):
        data, draws, also = other.data, other.draw_weights, other.further
    else:
        data, draws = _data(cfg, cache)
        also = _further(cfg, data, list(cfg.allow), cache)
    return Ground(data, other.encoder, other.joint, also, draws, other.source, other.report, other.source_model)


def _data(cfg: DictConfig, cache: Path) -> tuple[dict[str, Data], dict[str, torch.Tensor | None]]:
    data = streams_of(cfg.dataset, cfg.tasks, list(cfg.allow), cache)
    draws = {name: _balance(one, cfg.train) for name, one in data.items()}
    for one in data.values():
        one.in_memory = _megabytes(cfg.hardware.images_mb) * 2**20 // len(data)
    return data, draws


def _data_settings(cfg: DictConfig) -> list[Any]:
    """All that `_data` looks at."""
    train = cfg.train
    tasks = OmegaConf.to_container(cfg.tasks) if OmegaConf.is_config(cfg.tasks) else cfg.tasks
    dataset = OmegaConf.to_container(cfg.dataset, resolve=True)
    return [dataset, tasks, train.class_weights, train.sampler, cfg.hardware.images_mb, cfg.output.cache]


def _balance(data: Data, train: DictConfig) -> torch.Tensor | None:
    """Class weights into the tasks of `data`; how likely each training example is drawn, None for once an epoch."""
    labels = data.labels("train")
    data.tasks = with_class_weights(data.tasks, labels, train.class_weights)
    return draw_weights(data.tasks, labels, train.sampler)


def _further(cfg: DictConfig, data: dict[str, Data], allow: list[str], cache: Path) -> dict[str, Data]:
    also = dict(cfg.evaluate.also or {})
    if also and TARGET not in data:
        raise ConfigError("'evaluate.also' tests the model of one data set on others: not with dataset=joint.")
    return {str(name): further(str(name), node, data[TARGET], allow, cache) for name, node in also.items()}


def _megabytes(value: int) -> int:
    if value < 0:
        raise ConfigError(f"'hardware.images_mb' should be 0 or more megabytes. Found {value}.")
    return value


def encoder_of(cfg: DictConfig, channels: int) -> Encoder:
    """The backbone. What its library refuses (an image too small for its strides, say) is the config's fault."""
    size = cfg.model.get("image_size")
    if isinstance(size, int) and size < 1:
        raise ConfigError(f"'model.image_size' should be 1 or more, or null for the weights' own. Found {size}.")
    allow = list(cfg.allow)
    try:
        return seeded(cfg, "backbone", lambda: build(cfg.model, "model", allow=allow, channels=channels))
    except (ValueError, RuntimeError, AssertionError, TypeError, MemoryError, ArithmeticError, LookupError) as error:
        settings = ", ".join(f"model.{key}={shown(value)}" for key, value in cfg.model.items() if key != "_target_")
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"'model' cannot be built as it is set ({settings}): {said}") from error


def seeded(cfg: DictConfig, name: str, make: Any) -> Any:
    """Make a module whose initial values depend on the seed and its own name alone, not on what was made before it."""
    seed_everything(seed_for("init", cfg.seed, name))
    return make()
