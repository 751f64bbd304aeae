"""The formats that a run is executed in, where they are left to be chosen: those of its folder, of its sweep, of an earlier run
like it, or those that a few timed steps show to be the fastest (`timing.py`)."""

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from omegaconf import OmegaConf

from tlmtl import files, hardware
from tlmtl.assemble import Assembly, setup
from tlmtl.features.frozen import why_not
from tlmtl.hardware import COLUMN, Machine
from tlmtl.results import RunFolder
from tlmtl.timing import Formats, Timing
from tlmtl.training import Setup
from tlmtl.trial import Format, Work
from tlmtl.weigh import hides

log = logging.getLogger("tlmtl")
VERSION = 1  # of what is kept and of how it was timed: what another one kept is not read
PLANS = "plans.json"  # of a sweep
MARGIN = 10  # steps before a run's end, where timing begins at the latest


def image_steps(parts: Assembly) -> int:
    """How many of a run's steps take images through the backbone, or a part of it: a backbone that is frozen as a whole does
    so once, before training."""
    total = parts.units.total
    if parts.solver is not None:
        return 0  # it takes every image once
    if why_not(parts, total * parts.cfg.train.batch_size):
        return total
    return total - sum(cut.until - cut.start for cut in parts.cuts if cut.whole)


def begin(parts: Assembly, folder: RunFolder, memory: hardware.PeakMemory) -> tuple[Machine, Setup]:
    """The run's machine, its plan in force and in `run.json`, and what the loop takes."""
    record = folder.record
    kept = record.get("plan") if folder.checkpoints() else None  # a run goes on in the formats that it was begun in
    first = machine(parts, kept if _plan_right(kept) else None)
    made = setup(parts, first)
    if kept is not None or not hardware.tuned(parts.cfg.hardware):
        folder.update(plan=first.plan)
        return first, made
    found = chosen(parts, first, made, folder.path)
    log.info("%s", found["line"])
    memory.again(first.device)
    final = machine(parts, found["plan"])
    folder.update(plan=final.plan, timing={**found["timing"], "said": found["line"]})
    return final, on(made, final)


def on(made: Setup, machine: Machine) -> Setup:
    """`made`, which stands on that device already, in the formats of `machine`'s plan."""
    for module in (made.model, made.ema):
        if module is not None:
            module.to(memory_format=machine.memory_format)
    return dataclasses.replace(
        made,
        autocast=machine.autocast,
        memory_format=machine.memory_format,
        forward=torch.compile(made.model) if machine.plan["compiled"] else None,
    )


def machine(parts: Assembly, plan: Mapping[str, Any] | None = None) -> Machine:
    """The machine of a run in force: what is `auto` as `plan` has it, else by rule."""
    encoder = parts.encoder
    if plan and hides(parts.weighting):
        plan = {**plan, "compiled": False}
    return hardware.machine(parts.cfg.hardware, encoder.threads, encoder.memory_format, plan)


def chosen(parts: Assembly, usual: Machine, made: Setup, run: Path) -> dict[str, Any]:
    """The choice for a run: `plan` by column; `line` and `timing`, what it rests on.

    Runs of one model in one sweep have the same, whatever else they differ in: else they would differ in their formats, too.

    Arguments:
        usual: the machine by rule.
        run: the run's folder.
    """
    about = _about(parts, usual)
    sweep = run.parent if run.parent.parent.name == "sweeps" else None
    if sweep is None:
        return _remembered(parts, usual, made, about)
    with _held(sweep / f".{PLANS}.lock"):
        plans, key = _read(sweep / PLANS), _key(about)
        if not _right(plans.get(key)):
            plans[key] = _remembered(parts, usual, made, about)
            _keep(sweep / PLANS, plans)
    return plans[key]


def _remembered(parts: Assembly, usual: Machine, made: Setup, about: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier run of that model, shape and batch on such a machine found, or what is found now."""
    steps = image_steps(parts)
    full = {
        **about,
        "shapes": [list(stream.shape()) for stream in made.streams.values()],
        "batch": [parts.cfg.train.batch_size, parts.cfg.train.accumulate],
        "trains": steps > 0,
    }
    path = files.cache_folder(parts.cfg.output.cache) / "plans" / f"{_key(full)}.json"
    with _held(path.with_name(f".{path.stem}.lock")):
        found = _read(path)
        # What was found in too short a run, which could not time everything, is no word on one of twice its length.
        if _right(found) and (found["timing"]["complete"] or steps <= 2 * found["timing"]["steps"]):
            return found
        if steps:
            for stream in made.streams.values():
                stream.ready()
        timing = timed(parts, usual, made)
        plan = dataclasses.asdict(timing.chosen)
        found = {"version": VERSION, "about": full, "plan": plan, "line": timing.line, "timing": timing.record}
        if timing.record["formats"] and timing.record["trusted"]:
            _keep(path, found)
    return found


def timed(parts: Assembly, usual: Machine, made: Setup) -> Timing:
    left, plan = hardware.tuned(parts.cfg.hardware), usual.plan
    precisions = [plan["precision"]]
    if "precision" in left and hardware.takes_16_bits(usual.device):
        precisions = ["32-true", "bf16-mixed"]  # not bf16-true: small changes of a parameter are lost in its rounding
    layouts = list(hardware.MEMORY_FORMATS) if "memory_format" in left else [plan["memory_format"]]
    formats = [Format(one, layout) for one in precisions for layout in layouts]
    rule = Format(plan["precision"], plan["memory_format"])
    # After the plainest, what is likely to be fast: time may not be enough for all.
    rest = sorted(formats[1:], key=lambda one: one.memory_format != rule.memory_format)
    timer = Formats(made, lambda one: machine(parts, dataclasses.asdict(one)), on, rule)
    return timer.choose([formats[0], *rest], _work(parts, made), "compile" in left and not hides(parts.weighting))


def _work(parts: Assembly, made: Setup) -> Work:
    train, steps = parts.cfg.train, image_steps(parts)
    whole = [] if why_not(parts, made.total * train.batch_size) else [cut for cut in parts.cuts if cut.whole]
    start = max((cut.until for cut in whole if cut.until < made.total), default=0)
    evaluated = steps // made.evaluate_every * sum(map(len, made.validation.values()))
    return Work(min(start, max(0, made.total - MARGIN)), steps, evaluated)


def _about(parts: Assembly, machine: Machine) -> dict[str, Any]:
    """What a sweep's runs of one model have in common on one machine."""
    settings = parts.cfg.hardware
    return {
        "version": VERSION,
        "model": OmegaConf.to_container(parts.cfg.model, resolve=True),
        "asked": {name: settings[name] for name in COLUMN},
        "device": torch.cuda.get_device_name() if machine.device.type == "cuda" else machine.device.type,
        "processor": hardware.processor(),
        "threads": machine.plan["threads"],
        "torch": torch.__version__,
    }


def _key(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    """The object in a file; {} when there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _right(found: Any) -> bool:
    """Whether `found` is a choice as this version writes it."""
    if not isinstance(found, dict) or found.get("version") != VERSION or not _plan_right(found.get("plan")):
        return False
    timing = found.get("timing")
    told = isinstance(timing, dict) and isinstance(timing.get("steps"), int) and "complete" in timing
    return told and isinstance(found.get("line"), str)


def _plan_right(plan: Any) -> bool:
    return (
        isinstance(plan, dict)
        and plan.get("precision") in hardware.PRECISIONS
        and plan.get("memory_format") in hardware.MEMORY_FORMATS
        and isinstance(plan.get("compiled"), bool)
    )


def _keep(path: Path, content: Mapping[str, Any]) -> None:
    """Written where that can be done: whoever comes next times again otherwise."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(path, json.dumps(content, indent=2, default=str) + "\n")
    except OSError as error:
        log.info("The choice of formats cannot be kept in %s: %s.", path.parent, error.strerror or error)


@contextmanager
def _held(path: Path | None) -> Iterator[None]:
    """A lock, where locks are to be had: two processes that ask at once time once."""
    with contextlib.ExitStack() as stack:
        if path is not None:
            with contextlib.suppress(OSError, NotImplementedError):
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(path))
        yield
