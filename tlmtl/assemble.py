"""From a checked config to the objects of a run: data, model with source parameters in, terms, weighting, optimizer.

`assemble(cfg, with_source=False)` does all that can fail by a user's doing without training anything, so that a sweep
is refused before its first job starts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from tlmtl import files, hardware
from tlmtl.config import build, find_target, keywords
from tlmtl.data.dataset import Data
from tlmtl.data.decoded import Decoded
from tlmtl.data.parts import TARGET, Joint
from tlmtl.data.streams import plan, steps_per_epoch
from tlmtl.errors import ConfigError
from tlmtl.features.cuts import Cut, cuts
from tlmtl.features.frozen import why_not
from tlmtl.fusion import Fusion
from tlmtl.fusion import check as check_fusion
from tlmtl.ground import ground_like, ground_of, seeded
from tlmtl.hardware import Machine
from tlmtl.identity import terms_of
from tlmtl.logger.base import Tracker
from tlmtl.models.encoder import Encoder
from tlmtl.models.heads import make_head
from tlmtl.models.source import Report, Source
from tlmtl.models.statistics import Statistics
from tlmtl.optim import Groups, Units, check_optimizer
from tlmtl.preprocess import Normalize
from tlmtl.sharing.base import Sharing
from tlmtl.solvers.base import Solver, check_solver
from tlmtl.strategies.rules import match, parse_rules
from tlmtl.tasks.base import Task
from tlmtl.terms.base import Context, Term
from tlmtl.training import Setup
from tlmtl.weigh import private_of, weighting_of


@dataclass
class Assembly:
    """The objects of one run, wired together on the CPU; `setup()` places them on a machine."""

    cfg: DictConfig
    model: Sharing
    units: Units
    terms: dict[str, Term]
    weighting: Any
    groups: Groups
    fusion: Fusion | None
    tracker: Tracker
    cuts: list[Cut]  # where the backbone is frozen below, and for how long
    solver: Solver | None  # what finds the heads in place of the loop
    # what `Ground` tells
    data: dict[str, Data]
    encoder: Encoder
    joint: Joint | None
    further: dict[str, Data]
    draw_weights: dict[str, torch.Tensor | None]
    source: Source | None
    report: Report | None
    source_model: nn.Module | None

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


def check_settings(cfg: DictConfig) -> None:
    """Raises ConfigError for settings that what they are for does not take, which are told before data are read."""
    hardware.check(cfg.hardware)
    nodes = [(group, group, cfg[group]) for group in ("model", "optimizer", "schedule", "sharing", "fusion", "logger")]
    nodes += [("term", f"term.{name}", node) for name, node in terms_of(cfg).items()]
    for group, where, node in nodes:
        keywords(node, group, where, list(cfg.allow))


def assemble(
    cfg: DictConfig, with_source: bool = True, like: Assembly | None = None, data_of: Assembly | None = None
) -> Assembly:
    """Build everything that `cfg` names. Raises ConfigError for whatever a user can have got wrong.

    Arguments:
        data_of: the objects of a run that has the same data; they are taken and not read again.
        like: the objects of a run that differs from this one in nothing but its head and how that trains (`identity.OF_HEADS`):
            its backbone, with source parameters in, is taken and not built again.
    """
    if like is None:
        check_settings(cfg)
    allow = list(cfg.allow)
    cache = files.cache_folder(cfg.output.cache)
    terms = {n: seeded(cfg, f"term/{n}", _builder(node, n, allow)) for n, node in terms_of(cfg).items()}
    if like is not None:
        ground = ground_like(cfg, like, cache)
    else:
        ground = ground_of(cfg, list(terms.values()), with_source, cache, data_of)
    data, encoder, joint = ground.data, ground.encoder, ground.joint
    tasks = {name: task for one in data.values() for name, task in one.tasks.items()}
    heads = {
        name: seeded(cfg, f"head/{name}", partial(make_head, task, encoder.feature_size, shape, cfg.head))
        for shape, one in ((_shape(one, encoder), one) for one in data.values())
        for name, task in one.tasks.items()
    }
    model = seeded(cfg, "sharing", partial(build, cfg.sharing, "sharing", allow=allow, encoder=encoder, heads=heads))
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
        seeded(cfg, f"setup/{name}", lambda term=term: term.setup(context))
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
        cfg, model, units, terms, weighting, groups, fusion, tracker, cuts(model, encoder, groups),
        build(solver, "solver", "strategy.solver", allow) if solver else None, **vars(ground),
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
        for one in (*data.values(), *ground.further.values()):
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
        autocast=machine.autocast,
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


def _shape(data: Data, encoder: Encoder) -> tuple[int, ...]:
    """(C, H, W) of the training images as the model takes them; () where no task has to make them again."""
    if not any(task.of_input for task in data.tasks.values()):
        return ()
    first = torch.from_numpy(data.splits["train"][:1])
    return tuple(Normalize(encoder.preprocess)(data.examples.images.read(first, encoder.preprocess)).shape[1:])


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
