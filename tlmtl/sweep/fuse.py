"""Which runs of a sweep are trained together, as one unit of work: those that differ in nothing but their heads (`bank/`).

A unit pays where it saves more than it keeps from being done side by side: the cost of both is estimated from what the runs
are, never timed, so that the same sweep has the same units each time.
"""

import dataclasses
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch

from tlmtl import hardware
from tlmtl.assemble import Assembly
from tlmtl.bank.stack import why_not as why_not_driven
from tlmtl.features.frozen import why_not
from tlmtl.logger.base import Tracker
from tlmtl.models.heads import LinearHead
from tlmtl.sweep.limits import Limits

if TYPE_CHECKING:
    from tlmtl.sweep.plan import Job

log = logging.getLogger("tlmtl")
Units = list[list["Job"]]
TRAINS, SOLVED = "more than its head trains", "its head is found without the loop"
PAYS = "together does not pay, or not within the memory and half of sweep.time_limit"
MOST = 256  # runs of a unit: each holds a lock
COPIES = 8  # of a head's parameters in memory while it trains: itself, gradient, moments, direction, the best, what it began as
# Seconds, as measured (docs/decisions.md, "Which runs are trained together"): a run's beginning and end in a process of its own
# and in a unit; a step of a run alone and of a unit, beside what its products take; a product and sum of its products, of which
# there are two for each example and parameter; and for each parameter, the optimizer's step, which waits for memory where there
# are more than the processor's caches hold.
BEGIN_ALONE, BEGIN_TOGETHER = 0.8, 0.06
STEP_ALONE, STEP_TOGETHER = 7e-4, 1.2e-3
WORK, UPDATE, CACHED, UPDATE_BEYOND = 2.5e-11, 2.6e-9, 4e6, 5.3e-9


@dataclass(frozen=True)
class Head:
    """What is known of a run's head before it trains.

    Arguments:
        why: why it is trained alone; "" where it can be trained with others.
        size: of its features and its outputs.
        batch: examples in a step.
        validated: examples of the validation split.
        seeded: whether some of the backbone is random, so that every seed has another one.
        key: the same for runs that can be trained together.
    """

    why: str
    size: tuple[int, int] = (0, 0)
    batch: int = 0
    validated: int = 0
    seeded: bool = False
    key: str = ""

    def of(self, backbone: str, seed: int) -> "Head":
        """That of a run, by what its backbone and data stand on (`identity.backbone_id`)."""
        return dataclasses.replace(self, key=f"{backbone}-{seed}" if self.seeded else backbone)

    @property
    def parameters(self) -> int:
        return (self.size[0] + 1) * self.size[1]


def head_of(parts: Assembly) -> Head:
    """What of a run its unit depends on, but for its key."""
    cfg = parts.cfg
    if why := _why_alone(parts):
        return Head(why)
    report, count = parts.report, len(parts.encoder.module.state_dict())
    whole = report is not None and len(report.loaded) == count and not (parts.source and parts.source.partial)
    (task,), (data,) = parts.tasks.values(), parts.data.values()
    size, seeded = (parts.encoder.feature_size, task.outputs), cfg.strategy.init != "source" or not whole
    return Head("", size, cfg.train.batch_size, len(data.splits["val"]), seeded)


def _why_alone(parts: Assembly) -> str:
    cfg, groups = parts.cfg, parts.groups
    if parts.solver is not None:
        return SOLVED
    if len(parts.tasks) > 1 or len(parts.data) > 1:
        return "it has several tasks or data sets"
    (task,), (data,) = parts.tasks.values(), parts.data.values()
    head = parts.model.heads[task.name]
    mine = {id(parameter) for parameter in head.parameters()}
    if any(id(one) not in mine or group["start"] for group in groups.groups for one in group["params"]):
        return TRAINS
    if not isinstance(head, LinearHead):
        return "its head has hidden layers"
    if not parts.model.one_feature:
        return f"sharing={cfg.composed.choices.get('sharing')}"
    if not data.mask[task.name].all():
        return "some examples have no label"  # alone, a batch of them alone is no step
    if parts.terms or cfg.train.ema is not None or cfg.train.accumulate != 1:
        return "it has terms, an average of its parameters, or batches in pieces"
    if why := why_not_driven(groups.made):
        return f"its optimizer is {why}"
    if cfg.hardware.precision != "32-true" or hardware.tuned(cfg.hardware):
        return "it is not in 32 bits, or its format is chosen by timing"
    if cfg.hardware.device not in ("auto", "cpu") or (cfg.hardware.device == "auto" and _accelerated()):
        return "it does not train on the CPU"
    if type(parts.tracker) is not Tracker:
        return "it has a logger"
    if cfg.output.keep_checkpoint:
        return "its checkpoint is to be kept"
    return why_not(parts, parts.units.total * cfg.train.batch_size)


def _accelerated() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def units(jobs: Sequence["Job"], workers: int, limits: Limits) -> Units:
    """The jobs in units, those of a unit to be run by one process. Says which are trained together, and why others are not."""
    together: dict[str, list[Job]] = {}
    found: Units = []
    for item in jobs:
        if limits.fuse == "never" or item.head.why or item.has_checkpoint:
            found.append([item])
        else:
            together.setdefault(item.head.key, []).append(item)
    alone: Counter[str] = Counter()
    for same in together.values():
        made = _best(same, workers, limits)
        found += made
        if len(same) > 1:
            alone[PAYS] += sum(len(unit) == 1 for unit in made)
    order = {item.key: number for number, item in enumerate(jobs)}
    found.sort(key=lambda unit: min(order[item.key] for item in unit))
    if limits.fuse != "never":
        alike = Counter(item.head.key for item in jobs)
        for item in jobs:
            if (
                alike[item.head.key] > 1
                and item.head.why not in (TRAINS, SOLVED)
                and (item.head.why or item.has_checkpoint)
            ):
                alone[item.head.why or "it goes on from a checkpoint"] += 1
        _tell(found, alone)
    return found


def _tell(found: Units, alone: Counter[str]) -> None:
    sizes = [len(unit) for unit in found if len(unit) > 1]
    if sizes:
        parts = "" if len(sizes) == 1 else f" in {len(sizes)} parts"
        log.info("%d runs differ in their heads alone: they are trained together%s.", sum(sizes), parts)
    for reason, count in alone.items():
        if count:
            log.info("%d run(s) that differ from others in their heads alone are trained alone: %s.", count, reason)


def _best(same: list["Job"], workers: int, limits: Limits) -> Units:
    """The way to run jobs that can be trained together that is expected to be done first, of those that fit into memory and
    whose units take no longer than one run may."""
    ways: list[Units] = [[[item] for item in same]]
    room = _room(limits) / min(workers, len(same))
    for buckets in ([same], _by_length(same)):
        parts = 1
        while parts < len(same):
            way = [unit for bucket in buckets for unit in _cut(bucket, parts)]
            if all(len(unit) <= MOST and _bytes(unit) <= room for unit in way if len(unit) > 1):
                if all(limits.seconds is None or _seconds(unit) < limits.seconds / 2 for unit in way if len(unit) > 1):
                    ways.append(way)
                if parts >= workers:
                    break
            parts += 1
    return min(ways, key=lambda way: _makespan([_seconds(unit) for unit in way], workers))


def _cut(bucket: list["Job"], parts: int) -> Units:
    """So many units of nearly equal size, runs of one length and that draw the same beside each other."""
    ordered = sorted(bucket, key=lambda item: (item.steps, item.draws))
    size = math.ceil(len(bucket) / parts)
    return [ordered[at : at + size] for at in range(0, len(bucket), size)]


def _by_length(same: list["Job"]) -> Units:
    """Runs whose lengths are within a factor of two: a head that has ended is carried along until the last one has."""
    found: dict[int, list[Job]] = {}
    for item in same:
        found.setdefault(item.steps.bit_length(), []).append(item)
    return list(found.values())


def _places(unit: Sequence["Job"]) -> tuple[int, int]:
    """Groups that draw the same, and heads with those that fill up the smaller groups (`bank.stack.Stack`)."""
    sizes = Counter(item.draws for item in unit)
    return len(sizes), len(sizes) * max(sizes.values())


def step_seconds(heads: int, size: int, outputs: int, batch: int) -> float:
    """What a step of so many heads takes, one of them alone included."""
    parameters = (size + 1) * outputs
    update = UPDATE if heads * parameters <= CACHED else UPDATE_BEYOND
    each = 2 * batch * parameters * WORK + update * parameters
    return STEP_ALONE + each if heads == 1 else STEP_TOGETHER + heads * each


def _seconds(unit: Sequence["Job"]) -> float:
    head, steps = unit[0].head, max(item.steps for item in unit)
    heads = _places(unit)[1]
    ends = len(unit) * BEGIN_TOGETHER if len(unit) > 1 else 0.0
    return BEGIN_ALONE + ends + steps * step_seconds(heads, *head.size, head.batch)


def _makespan(seconds: Sequence[float], workers: int) -> float:
    """When the last of these has ended, so many at a time, in any order."""
    return max(sum(seconds) / workers, *seconds) if len(seconds) > 1 else seconds[0]


def _bytes(unit: Sequence["Job"]) -> int:
    """Of memory that a unit takes beside what one run takes."""
    head, (groups, heads) = unit[0].head, _places(unit)
    outputs = heads * head.size[1] * (head.validated + 3 * head.batch)
    return 4 * (COPIES * heads * head.parameters + outputs + 3 * groups * head.batch * head.size[0])


def _room(limits: Limits) -> int:
    free = psutil.virtual_memory().available // 2
    return min(free, limits.megabytes * 2**20 // 2) if limits.megabytes is not None else free
