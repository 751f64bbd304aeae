"""From a checked config to the objects of a run: data, model with source parameters in, terms, weighting, optimizer.

`assemble(cfg, with_source=False)` does all that can fail by a user's doing without training anything, so that a sweep
is refused before its first job starts.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn

from tlmtl import files, hardware
from tlmtl.checkpoint import seed_everything
from tlmtl.config import build, find_target, keywords
from tlmtl.data.dataset import Data
from tlmtl.data.decoded import Decoded
from tlmtl.data.further import further
from tlmtl.data.parts import TARGET, Joint, joint_of, streams_of
from tlmtl.data.streams import plan, seed_for, steps_per_epoch
from tlmtl.errors import ConfigError
from tlmtl.features.cuts import Cut, cuts
from tlmtl.features.frozen import why_not
from tlmtl.fusion import Fusion
from tlmtl.fusion import check as check_fusion
from tlmtl.hardware import Machine
from tlmtl.identity import terms_of
from tlmtl.initial import source_of
from tlmtl.logger.base import Tracker
from tlmtl.models.encoder import Encoder, check_layers
from tlmtl.models.heads import make_head
from tlmtl.models.source import Report, Source, check_leak, load_into
from tlmtl.models.statistics import Statistics
from tlmtl.optim import Groups, Units, check_optimizer
from tlmtl.preprocess import Normalize
from tlmtl.sharing.base import Sharing
from tlmtl.solvers.base import Solver, check_solver
from tlmtl.strategies.rules import match, parse_rules
from tlmtl.tasks.base import Task
from tlmtl.tasks.imbalance import draw_weights, with_class_weights
from tlmtl.terms.base import Context, Term, layers_of
from tlmtl.training import Setup
from tlmtl.values import shown
from tlmtl.weigh import private_of, weighting_of


@dataclass
class Assembly:
    """The objects of one run, wired together on the CPU; `setup()` places them on a machine."""

    cfg: DictConfig
    data: dict[str, Data]  # by stream: the parts of a joint data set, or the one called `target`
    encoder: Encoder
    model: Sharing
    units: Units
    terms: dict[str, Term]
    weighting: Any
    groups: Groups
    source: Source | None = None
    report: Report | None = None
    source_model: nn.Module | None = None
    draw_weights: dict[str, torch.Tensor | None] = field(default_factory=dict)  # by stream
    joint: Joint | None = None  # what a joint data set says of its parts together
    fusion: Fusion | None = None
    tracker: Tracker = field(default_factory=Tracker)
    further: dict[str, Data] = field(default_factory=dict)  # test sets of other data, by name
    cuts: list[Cut] = field(default_factory=list)  # where the backbone is frozen below, and for how long
    solver: Solver | None = None  # what finds the heads in place of the loop

    @property
    def tasks(self) -> dict[str, Task]:
        return {name: task for data in self.data.values() for name, task in data.tasks.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """By stream, how many training examples there are."""
        return {name: len(data.splits["train"]) for name, data in self.data.items()}

    @property
    def steps(self) -> int:
        """Of the loop, or settings that a solver tries."""
        return self.units.total if self.solver is None else self.solver.count(self.units.total) * len(self.tasks)

    @property
    def threads(self) -> int:
        return hardware.threads_of(self.cfg.hardware.threads, self.encoder.threads)


def assemble(cfg: DictConfig, with_source: bool = True) -> Assembly:
    """Build everything that `cfg` names. Raises ConfigError for whatever a user can have got wrong."""
    hardware.check(cfg.hardware)
    allow = list(cfg.allow)
    cache = files.cache_folder(cfg.output.cache)
    data, joint = streams_of(cfg.dataset, cfg.tasks, allow, cache), joint_of(cfg.dataset, allow)
    draws = {name: _balance(one, cfg.train) for name, one in data.items()}
    for one in data.values():
        one.in_memory = _megabytes(cfg.hardware.images_mb) * 2**20 // len(data)
    also = _further(cfg, data, allow, cache)
    tasks = {name: task for one in data.values() for name, task in one.tasks.items()}
    encoder = encoder_of(cfg, next(iter(data.values())).channels)
    terms = {n: _seeded(cfg, f"term/{n}", _builder(node, n, allow)) for n, node in terms_of(cfg).items()}
    check_layers(encoder.blocks, layers_of(list(terms.values())))
    source = source_of(cfg, encoder, with_source)
    source_model, report = None, None
    if cfg.strategy.init not in ("source", "random"):
        raise ConfigError(f"'strategy.init' should be source or random. Found '{cfg.strategy.init}'.")
    if source is not None:
        tested = [one.input_hashes("test") for one in (*data.values(), *also.values())]
        check_leak(source, np.concatenate([one.input_hashes("val") for one in data.values()]), np.concatenate(tested))
        filled = copy.deepcopy(encoder.module)
        report = load_into(filled, source)
        encoder.preprocess = source.preprocess or encoder.preprocess
        if any(term.needs.source_model for term in terms.values()):
            source_model = copy.deepcopy(filled).eval().requires_grad_(False)
        if cfg.strategy.init == "source":
            encoder.module.load_state_dict(filled.state_dict())
    heads = {
        name: _seeded(cfg, f"head/{name}", partial(make_head, task, encoder.feature_size, shape, cfg.head))
        for shape, one in ((_shape(one, encoder), one) for one in data.values())
        for name, task in one.tasks.items()
    }
    model = _seeded(cfg, "sharing", partial(build, cfg.sharing, "sharing", allow=allow, encoder=encoder, heads=heads))
    if joint is not None and joint.own_statistics and not model.separate:
        model.statistics = Statistics(model, list(data))
    rules = match(parse_rules(cfg.strategy.rules), [name for name, _ in model.named_parameters()])
    units = _units(cfg, data, joint)
    weighting = weighting_of(cfg, tasks, units, model, len(data))
    fusion = build(cfg.fusion, "fusion", allow=allow)
    tracker = build(cfg.logger, "logger", allow=allow)
    check_fusion(fusion, tasks)
    context = Context(model, encoder, tasks, {}, cfg.strategy.init == "source")
    for name, term in terms.items():
        _seeded(cfg, f"setup/{name}", lambda term=term: term.setup(context))
    own = private_of(weighting, model, encoder)
    schedule = build(cfg.schedule, "schedule", allow=allow)
    groups = Groups(model, rules, schedule, units, [*terms.values(), weighting], own)
    if not any(group["start"] == 0 for group in groups.groups):
        raise ConfigError("Nothing trains: every parameter is frozen by 'strategy.rules' at the start of the run.")
    groups.schedule(0, units.total, units)  # a wrong warm-up is told here
    check_optimizer(find_target(cfg.optimizer, "optimizer", "optimizer", allow))
    solver = cfg.strategy.get("solver")
    target, settings = keywords(cfg.optimizer, "optimizer", "optimizer", allow)
    groups.optimizer(target, **settings)
    made = Assembly(
        cfg, data, encoder, model, units, terms, weighting, groups, source, report, source_model, draws, joint, fusion,
        tracker, also, cuts(model, encoder, groups), build(solver, "solver", "strategy.solver", allow) if solver else None,
    )  # fmt: skip
    if made.solver is not None and "dataset.augment" in made.solver.ignores:
        for one in data.values():
            one.augment = "none"
    drawn = units.total * cfg.train.batch_size
    reason = why_not(made, drawn)  # a wrong setting is told here
    if made.solver is not None:
        check_solver(made.solver, made, reason)
    once = not reason and any(cut.whole and cut.until - cut.start == units.total for cut in made.cuts)
    if drawn >= sum(made.sizes.values()) and not once:  # images are read more than once
        for one in (*data.values(), *also.values()):
            one.decoded = Decoded(cache, cfg.output.cache_mb)
    return made


def setup(parts: Assembly, machine: Machine) -> Setup:
    """Place the objects on the machine and make what the loop takes."""
    cfg, units = parts.cfg, parts.units
    train = cfg.train
    machine.place(parts.model)
    with parts.model.on(next(iter(parts.data.values())).part):
        pass  # a move to another device parts buffers that two names should share
    for module in (*parts.terms.values(), parts.weighting, parts.source_model):
        if module is not None:
            module.to(machine.device)
    preprocess = parts.encoder.preprocess
    streams = {name: data.stream("train", preprocess) for name, data in parts.data.items()}
    ema = None
    if train.ema is not None:
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        ema = AveragedModel(parts.model, multi_avg_fn=get_ema_multi_avg_fn(train.ema), use_buffers=True)
    patience = train.early_stopping
    return Setup(
        model=parts.model,
        tasks=parts.tasks,
        streams=streams,
        validation={name: data.stream("val", preprocess) for name, data in parts.data.items()},
        plan=_plan(parts),
        weighting=parts.weighting,
        terms=parts.terms,
        groups=parts.groups,
        optimizer=parts.groups.made,
        total=units.total,
        steps_per_epoch=units.steps_per_epoch,
        evaluate_every=max(1, units.steps(train.evaluate_every, "train.evaluate_every")),
        checkpoint_every=max(1, units.steps(train.checkpoint_every, "train.checkpoint_every")),
        seed=cfg.seed,
        autocast=machine.fabric.autocast,
        device=machine.device,
        memory_format=machine.memory_format,
        forward=torch.compile(parts.model) if machine.plan["compiled"] else None,
        source_model=parts.source_model,
        accumulate=train.accumulate,
        lookahead=max(stream.lookahead for stream in streams.values()),
        clip=train.clip,
        patience=None if patience is None else units.steps(patience, "train.early_stopping"),
        ema=ema,
    )


def _plan(parts: Assembly) -> Callable[[int], list[dict[str, torch.Tensor]]]:
    """By epoch, what each of its steps draws."""
    sizes, batch_size, seed = parts.sizes, parts.cfg.train.batch_size, parts.cfg.seed
    if (joint := parts.joint) is not None:
        return lambda epoch: joint.sampling.plan(sizes, batch_size, seed, epoch, parts.draw_weights)
    return lambda epoch: plan(sizes, batch_size, seed, epoch, parts.draw_weights[TARGET])


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


def _shape(data: Data, encoder: Encoder) -> tuple[int, ...]:
    """(C, H, W) of the training images as the model takes them; () where no task has to make them again."""
    if not any(task.of_input for task in data.tasks.values()):
        return ()
    first = torch.from_numpy(data.splits["train"][:1])
    return tuple(Normalize(encoder.preprocess)(data.examples.images.read(first, encoder.preprocess)).shape[1:])


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
    except (ValueError, RuntimeError, AssertionError, TypeError, MemoryError, ArithmeticError, LookupError) as error:
        settings = ", ".join(f"model.{key}={shown(value)}" for key, value in cfg.model.items() if key != "_target_")
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"'model' cannot be built as it is set ({settings}): {said}") from error


def _units(cfg: DictConfig, data: dict[str, Data], joint: Joint | None) -> Units:
    train, sizes = cfg.train, {name: len(one.splits["train"]) for name, one in data.items()}
    for key, least in (("batch_size", 1), ("accumulate", 1)):
        if train[key] < least:
            raise ConfigError(f"'train.{key}' should be {least} or more. Found {train[key]}.")
    if train.clip is not None and not train.clip > 0:
        raise ConfigError(f"'train.clip' should be above 0, or null for none. Found {train.clip}.")
    if train.ema is not None and not 0 < train.ema < 1:
        raise ConfigError(f"'train.ema' should be a decay between 0 and 1, or null for none. Found {train.ema}.")
    examples = joint.sampling.examples(sizes, train.batch_size) if joint else sum(sizes.values())
    steps = joint.sampling.steps(sizes, train.batch_size) if joint else steps_per_epoch(examples, train.batch_size)
    per_epoch = Units(steps, examples)
    units = Units(per_epoch.steps_per_epoch, examples, per_epoch.steps(train.epochs, "train.epochs", of=0))
    if units.total < 1:
        raise ConfigError(f"'train.epochs' should make at least one step. Found {train.epochs}.")
    for key in ("evaluate_every", "checkpoint_every", "early_stopping"):
        if train[key] is not None:
            units.steps(train[key], f"train.{key}")
    return units


def _builder(node: Any, name: str, allow: list[str]):
    return lambda: build(node, "term", f"term.{name}", allow)


def _seeded(cfg: DictConfig, name: str, make: Any) -> Any:
    """Make a module whose initial values depend on the seed and its own name alone, not on what was made before it."""
    seed_everything(seed_for("init", cfg.seed, name))
    return make()
