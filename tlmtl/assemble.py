"""From a checked config to the objects of a run: data, model with source parameters in, terms, weighting, optimizer.

`assemble(cfg, with_source=False)` does all that can fail by a user's doing without training anything, so that a sweep
is refused before its first job starts.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from tlmtl import files, hardware
from tlmtl.checkpoint import seed_everything
from tlmtl.config import build, keywords
from tlmtl.data.dataset import Data, load
from tlmtl.data.further import further
from tlmtl.data.streams import Stream, seed_for, steps_per_epoch
from tlmtl.errors import ConfigError
from tlmtl.hardware import Machine
from tlmtl.identity import needs_source, terms_of
from tlmtl.models.encoder import Encoder, check_layers
from tlmtl.models.heads import LinearHead
from tlmtl.models.source import Report, Source, check_leak, load_into
from tlmtl.optim import Groups, Units
from tlmtl.strategies.rules import match, parse_rules
from tlmtl.tasks.imbalance import draw_weights, with_class_weights
from tlmtl.terms.base import Context, Term, layers_of
from tlmtl.training import Setup


@dataclass
class Assembly:
    """The objects of one run, wired together on the CPU; `setup()` places them on a machine."""

    cfg: DictConfig
    data: Data
    encoder: Encoder
    model: nn.Module
    units: Units
    terms: dict[str, Term]
    weighting: Any
    groups: Groups
    source: Source | None = None
    report: Report | None = None
    source_model: nn.Module | None = None
    draw_weights: torch.Tensor | None = None
    streams: dict[str, Stream] = field(default_factory=dict)
    further: dict[str, Data] = field(default_factory=dict)  # test sets of other data, by name

    @property
    def threads(self) -> int:
        return hardware.threads_of(self.cfg.hardware.threads, self.encoder.threads)


def assemble(cfg: DictConfig, with_source: bool = True) -> Assembly:
    """Build everything that `cfg` names. Raises ConfigError for whatever a user can have got wrong."""
    hardware.check(cfg.hardware)
    allow = list(cfg.allow)
    cache = files.cache_folder(cfg.output.cache)
    data = load(cfg.dataset, cfg.tasks, allow, cache)
    labels = data.labels("train")
    data.tasks = with_class_weights(data.tasks, labels, cfg.train.class_weights)
    draws = draw_weights(data.tasks, labels, cfg.train.sampler)
    data.in_memory = _megabytes(cfg.hardware.images_mb) * 2**20
    also = {
        str(name): further(str(name), node, data, allow, cache) for name, node in dict(cfg.evaluate.also or {}).items()
    }
    encoder = encoder_of(cfg, data.channels)
    terms = {n: _seeded(cfg, f"term/{n}", _builder(node, n, allow)) for n, node in terms_of(cfg).items()}
    check_layers(encoder.blocks, layers_of(list(terms.values())))
    source = _source(cfg, encoder, with_source)
    source_model, report = None, None
    if cfg.strategy.init not in ("source", "random"):
        raise ConfigError(f"'strategy.init' should be source or random. Found '{cfg.strategy.init}'.")
    if source is not None:
        tested = [data.input_hashes("test"), *(more.input_hashes("test") for more in also.values())]
        check_leak(source, data.input_hashes("val"), np.concatenate(tested))
        filled = copy.deepcopy(encoder.module)
        report = load_into(filled, source)
        encoder.preprocess = source.preprocess or encoder.preprocess
        if any(term.needs.source_model for term in terms.values()):
            source_model = copy.deepcopy(filled).eval().requires_grad_(False)
        if cfg.strategy.init == "source":
            encoder.module.load_state_dict(filled.state_dict())
    heads = {
        name: _seeded(
            cfg,
            f"head/{name}",
            lambda task=task: LinearHead(encoder.feature_size, task.outputs, cfg.head.init, cfg.head.dropout),
        )
        for name, task in data.tasks.items()
    }
    model = build(cfg.sharing, "sharing", allow=allow, encoder=encoder, heads=heads)
    rules = match(parse_rules(cfg.strategy.rules), [name for name, _ in model.named_parameters()])
    units = _units(cfg, len(data.splits["train"]))
    weighting = build(cfg.weighting, "weighting", allow=allow, tasks=data.tasks)
    context = Context(model, encoder, data.tasks, {}, cfg.strategy.init == "source")
    for name, term in terms.items():
        _seeded(cfg, f"setup/{name}", lambda term=term: term.setup(context))
    groups = Groups(model, rules, build(cfg.schedule, "schedule", allow=allow), units, [*terms.values(), weighting])
    if not any(group["start"] == 0 for group in groups.groups):
        raise ConfigError("Nothing trains: every parameter is frozen by 'strategy.rules' at the start of the run.")
    groups.schedule(0, units.total, units)  # a wrong warm-up is told here
    target, settings = keywords(cfg.optimizer, "optimizer", "optimizer", allow)
    groups.optimizer(target, **settings)
    return Assembly(
        cfg, data, encoder, model, units, terms, weighting, groups, source, report, source_model, draws, further=also
    )


def setup(parts: Assembly, machine: Machine) -> Setup:
    """Place the objects on the machine and make what the loop takes."""
    cfg, units = parts.cfg, parts.units
    train = cfg.train
    machine.place(parts.model)
    for module in (*parts.terms.values(), parts.weighting, parts.source_model):
        if module is not None:
            module.to(machine.device)
    parts.streams = {"target": parts.data.stream("train", parts.encoder.preprocess)}
    ema = None
    if train.ema is not None:
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        ema = AveragedModel(parts.model, multi_avg_fn=get_ema_multi_avg_fn(train.ema), use_buffers=True)
    patience = train.early_stopping
    return Setup(
        model=parts.model,
        tasks=parts.data.tasks,
        streams=parts.streams,
        validation=parts.data.stream("val", parts.encoder.preprocess),
        weighting=parts.weighting,
        terms=parts.terms,
        groups=parts.groups,
        optimizer=parts.groups.made,
        total=units.total,
        steps_per_epoch=units.steps_per_epoch,
        batch_size=train.batch_size,
        evaluate_every=max(1, units.steps(train.evaluate_every, "train.evaluate_every")),
        checkpoint_every=max(1, units.steps(train.checkpoint_every, "train.checkpoint_every")),
        seed=cfg.seed,
        autocast=machine.fabric.autocast,
        device=machine.device,
        memory_format=machine.memory_format,
        forward=torch.compile(parts.model) if cfg.hardware.compile else None,
        source_model=parts.source_model,
        accumulate=train.accumulate,
        lookahead=max(stream.lookahead for stream in parts.streams.values()),
        clip=train.clip,
        patience=None if patience is None else units.steps(patience, "train.early_stopping"),
        ema=ema,
        draw_weights=parts.draw_weights,
    )


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
        return _seeded(cfg, "backbone", lambda: build(cfg.model, "model", allow=allow, channels=channels))
    except (ValueError, RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(f"'model' cannot be built as it is set: {str(error).splitlines()[0]}") from error


def _units(cfg: DictConfig, examples: int) -> Units:
    train = cfg.train
    for key, least in (("batch_size", 1), ("accumulate", 1)):
        if train[key] < least:
            raise ConfigError(f"'train.{key}' should be {least} or more. Found {train[key]}.")
    if train.clip is not None and train.clip <= 0:
        raise ConfigError(f"'train.clip' should be above 0, or null for none. Found {train.clip}.")
    if train.ema is not None and not 0 < train.ema < 1:
        raise ConfigError(f"'train.ema' should be a decay between 0 and 1, or null for none. Found {train.ema}.")
    per_epoch = Units(steps_per_epoch(examples, train.batch_size), examples)
    units = Units(per_epoch.steps_per_epoch, examples, per_epoch.steps(train.epochs, "train.epochs", of=0))
    if units.total < 1:
        raise ConfigError(f"'train.epochs' should make at least one step. Found {train.epochs}.")
    for key in ("evaluate_every", "checkpoint_every", "early_stopping"):
        if train[key] is not None:
            units.steps(train[key], f"train.{key}")
    return units


def _source(cfg: DictConfig, encoder: Encoder, with_source: bool) -> Source | None:
    if not needs_source(cfg):
        return None
    if str(cfg.source.get("_target_", "")).endswith(".no_source"):
        raise ConfigError(
            f"strategy={cfg.composed.choices.get('strategy', '?')} starts from source parameters, but source=none. Choose "
            "source=pretrain, source=run or source=imagenet, or strategy=from_scratch."
        )
    keywords(cfg.source, "source", "source", list(cfg.allow))
    if not with_source and "dataset" in cfg.source and not cfg.source.get("path"):
        return None
    return build(cfg.source, "source", allow=list(cfg.allow), encoder=encoder)


def _builder(node: Any, name: str, allow: list[str]):
    return lambda: build(node, "term", f"term.{name}", allow)


def _seeded(cfg: DictConfig, name: str, make: Any) -> Any:
    """Make a module whose initial values depend on the seed and its own name alone, not on what was made before it."""
    seed_everything(seed_for("init", cfg.seed, name))
    return make()
