"""Durations in any unit, learning-rate schedules, and optimizer groups made from a strategy's rules."""

import copy
import functools
import inspect
import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from tlmtl.errors import ConfigError
from tlmtl.strategies.rules import Rule, set_modes

DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?(?:e\d+)?)\s*(ep|epochs?|st|steps?|ex|examples?|%|percent)?\s*$")


@dataclass(frozen=True)
class Units:
    """What turns durations into steps, once, so that the rest of the program only deals with steps."""

    steps_per_epoch: int
    examples_per_epoch: int
    total: int = 0  # steps of the run, for percentages

    def steps(self, duration: Any, where: str, of: int | None = None) -> int:
        """`10` or `10ep` (epochs), `500st`, `20000ex` (examples), `5%` of the run or of `of` steps -> steps, 0 or more."""
        found = DURATION.match(str(duration))
        if not found:
            raise ConfigError(
                f"'{where}' should be a duration: 10 or 10ep (epochs), 500st (steps), 20000ex (examples), 5% (of the run). "
                f"Found '{duration}'."
            )
        number, unit = float(found[1]), (found[2] or "ep")[:2]
        per = {
            "ep": self.steps_per_epoch,
            "st": 1.0,
            "ex": self.steps_per_epoch / self.examples_per_epoch,
            "%": (self.total if of is None else of) / 100,
            "pe": (self.total if of is None else of) / 100,
        }[unit]
        return math.ceil(number * per - 1e-9)


class Schedule:
    """A learning-rate multiplier as a pure function of the step, so that nothing of it need be saved."""

    warmup: Any

    def __call__(self, step: int, total: int, units: Units) -> float:
        """The factor at `step` (0 to total - 1) of a window of `total` steps."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """1, after a linear warm-up."""

    warmup: Any = "0%"

    def __call__(self, step: int, total: int, units: Units) -> float:
        warmup = units.steps(self.warmup, "schedule.warmup", of=total)
        return min(1.0, (step + 1) / (warmup + 1))


@dataclass(frozen=True)
class Cosine(Schedule):
    """From 1 to `end` along half a cosine (Loshchilov & Hutter 2017, eq. 5 without restarts), after a linear warm-up."""

    warmup: Any = "0%"
    end: float = 0.0

    def __post_init__(self) -> None:
        _not_negative(end=self.end)

    def __call__(self, step: int, total: int, units: Units) -> float:
        warmup = units.steps(self.warmup, "schedule.warmup", of=total)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return _half_cosine(1.0, self.end, (step - warmup) / max(1, total - warmup))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """From `start` up to 1 and down to `end`, both along half a cosine (Smith & Topin 2019).

    As in torch's OneCycleLR with its default divisors; unlike it, momentum stays as it is.
    """

    warmup: Any = "25%"
    start: float = 0.04
    end: float = 1e-4

    def __post_init__(self) -> None:
        _not_negative(start=self.start, end=self.end)

    def __call__(self, step: int, total: int, units: Units) -> float:
        peak = max(0, units.steps(self.warmup, "schedule.warmup", of=total) - 1)  # the last step of the warm-up
        if step < peak:
            return _half_cosine(self.start, 1.0, step / peak)
        return _half_cosine(1.0, self.end, (step - peak) / max(1, total - 1 - peak))


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ConfigError(f"'schedule.{name}' should be a factor of 0 or more. Found {value}.")


def _half_cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def check_optimizer(make: Any) -> None:
    """Raises ConfigError for a class of torch.optim that this loop cannot drive."""
    why = {
        "LBFGS": "evaluates a step's loss many times, which this loop does not do",
        "SparseAdam": "takes sparse gradients, which no model here has",
        "Muon": "trains matrices alone, and every model here has other parameters, too",
    }.get(getattr(make, "__name__", ""))
    if why:
        raise ConfigError(
            f"'optimizer._target_=torch.optim.{make.__name__}' {why}. Choose another, such as optimizer=sgd."
        )


class Groups:
    """Which parameters train at a step, and how fast. Owns the optimizer's groups.

    Arguments:
        model: with source parameters in.
        rules: by parameter name, as `rules.match` gives them.
        schedule, units: the learning rate of a group follows the schedule over the group's own window, from its start.
        extra: modules with parameters of their own (terms, weightings), trained at the base rate throughout.
        private: names of parameters that serve one task alone; those of heads always do.
    """

    def __init__(
        self,
        model: nn.Module,
        rules: dict[str, Rule],
        schedule: Schedule,
        units: Units,
        extra: list[nn.Module],
        private: Collection[str] = (),
    ) -> None:
        self.model, self.schedule, self.units, self.private = model, schedule, units, private
        self.groups: list[dict[str, Any]] = []
        self.starts: dict[str, int] = {}  # by parameter name, the step from which it trains; never: `units.total`
        by_kind: dict[tuple, list[str]] = {}
        parameters = dict(model.named_parameters())
        for name, rule in rules.items():
            start = _start(rule, units)
            self.starts[name] = units.total if rule.frozen else min(start, units.total)
            # Norms and biases are not decayed: a pull towards zero says nothing about them (He et al. 2019, sec. 3.1).
            kind = (rule.frozen or start >= units.total, start, rule.lr_scale, parameters[name].ndim > 1)
            by_kind.setdefault(kind, []).append(name)
        self.shared: list[nn.Parameter] = []  # those that tasks share and that train now
        self.frozen = [parameters[n] for kind, names in by_kind.items() if kind[0] for n in names]
        for (frozen, start, scale, decayed), names in by_kind.items():
            if not frozen:
                members = [parameters[name] for name in names]
                self.groups.append({"params": members, "start": start, "scale": scale, "decayed": decayed})
        own = [p for module in extra for p in module.parameters() if p.requires_grad]
        if own:
            self.groups.append({"params": own, "start": 0, "scale": 1.0, "decayed": False})

    def optimizer(self, make: Callable[..., Optimizer], lr: float | None = None, **settings: Any) -> Optimizer:
        """`make` (a class of torch.optim) over these groups. Raises ConfigError for what it refuses."""
        if lr is None or not (lr >= 0 and math.isfinite(lr)):
            raise ConfigError(
                f"'optimizer.lr' should be a finite number of 0 or more; it is strategy.lr unless set. Found {lr}."
            )
        decays = "weight_decay" in inspect.signature(make).parameters  # some do by default (AdamW)
        groups = [
            {"params": g["params"], "weight_decay": 0.0} if decays and not g["decayed"] else {"params": g["params"]}
            for g in self.groups
        ]
        self.lr = lr
        try:
            self.made = uncompiled(make, groups, lr=lr, **settings)
        except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            given = ", ".join(f"optimizer.{key}={value}" for key, value in settings.items())
            raise ConfigError(
                f"'optimizer' cannot be built: {error} (torch.optim.{make.__name__}, {given})."
            ) from error
        return self.made

    def begin(self, step: int, first: bool = False) -> float:
        """Set gradients, modes and learning rates for `step`; `first` after a start or a resume. Returns the base rate."""
        thawed = first or any(group["start"] == step for group in self.groups)
        if thawed:
            for parameter in self.frozen:
                parameter.requires_grad_(False)
            for group in self.groups:
                for parameter in group["params"]:
                    parameter.requires_grad_(step >= group["start"])
        for group, made in zip(self.groups, self.made.param_groups, strict=True):
            if step >= group["start"]:
                window = self.units.total - group["start"]
                made["lr"] = self.lr * group["scale"] * self.schedule(step - group["start"], window, self.units)
        if thawed:
            set_modes(self.model)
            self.shared = self.shared_at(step)
        return self.rate(step)

    def rate(self, step: int) -> float:
        """The base learning rate at `step`."""
        return self.lr * self.schedule(step, self.units.total, self.units)

    def shared_at(self, step: int) -> list[nn.Parameter]:
        """The parameters that tasks share and that train at `step`."""
        training = {id(p) for group in self.groups if step >= group["start"] for p in group["params"]}
        shared = [(n, p) for n, p in self.model.named_parameters() if not (n.startswith("heads.") or n in self.private)]
        return [p for _, p in shared if id(p) in training]

    def constant(self) -> set[str]:
        """Names of the parameters and buffers of the model that the whole run leaves as they were: those that never train,
        and the running statistics of a subtree without a parameter that does."""
        found: set[str] = set()

        def visit(module: nn.Module, prefix: str, inherited: bool) -> None:
            names = [name for name, _ in module.named_parameters(prefix, remove_duplicate=False)]
            still = all(self.starts.get(n, 0) >= self.units.total for n in names) if names else inherited
            own = [f"{prefix}.{name}".lstrip(".") for name, _ in module.named_buffers(recurse=False)] if still else []
            found.update(own)
            for name, child in module.named_children():
                visit(child, f"{prefix}.{name}".lstrip("."), still)

        visit(self.model, "", False)
        return found | {name for name, start in self.starts.items() if start >= self.units.total}

    def of(self, model: nn.Module) -> "Groups":
        """The same groups for a part of the model that holds all that trains, by the names that its parameters have there."""
        mine = copy.copy(self)
        mine.model, mine.starts = model, {name: self.starts[name] for name, _ in model.named_parameters()}
        return mine

    def trained(self) -> int:
        """How many parameters of the model train at some time in the run."""
        ours = {id(p) for p in self.model.parameters()}
        return sum(p.numel() for group in self.groups for p in group["params"] if id(p) in ours)


def uncompiled(make: Callable[..., Optimizer], *args: Any, **settings: Any) -> Optimizer:
    """An optimizer of torch's that never imports torch's compiler, which takes two thirds of the time that torch does.

    Every method of an optimizer imports it to keep itself out of what is compiled. No optimizer is compiled here.
    """
    for method in vars(Optimizer).values():
        if hasattr(method, "__wrapped__"):  # by `torch._disable_dynamo`, which looks for what to call in its stead
            method.__wrapped__.__dict__.setdefault("__dynamo_disable", method.__wrapped__)
    made = make(*args, **settings)
    plain = inspect.unwrap(type(made).step)
    if type(made).__module__.startswith("torch.optim.") and not made.defaults.get("differentiable"):
        made.step = functools.partial(torch.no_grad()(plain), made)  # type: ignore[method-assign]
    return made


def _start(rule: Rule, units: Units) -> int:
    where = f"strategy.rules ({rule.params}): from"
    if isinstance(rule.start, int | float):
        if not 0 <= rule.start <= 1:
            raise ConfigError(
                f"'{where}' as a number is a fraction of the run, 0 to 1; or a duration. Found {rule.start}."
            )
        return round(rule.start * units.total)
    return units.steps(rule.start, where)
