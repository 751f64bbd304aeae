"""One run from top to bottom, in a folder of its own: config -> data -> model -> strategy -> fit -> evaluate -> rows."""

import logging
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

import tlmtl
from tlmtl import checkpoint, execution, files, hardware, identity, outcome, results, stopping
from tlmtl.assemble import Assembly, assemble
from tlmtl.errors import ConfigError, Pruned, Stopped, TlmtlError, TrainingError
from tlmtl.features.frozen import Frozen, why_not
from tlmtl.logger.tracking import Tracking
from tlmtl.loop import fit
from tlmtl.progress import Progress, Silent
from tlmtl.recorder import Recorder
from tlmtl.results import RunFolder
from tlmtl.solvers.solve import solve
from tlmtl.stopping import Stop
from tlmtl.training import Setup, State

log = logging.getLogger("tlmtl")


@dataclass
class Result:
    """What a run leaves: its rows, its folder, and the best model by validation (None when it was not trained here)."""

    rows: Any  # pandas.DataFrame
    folder: Path
    model: nn.Module | None = None


def execute(
    cfg: DictConfig,
    path: Path,
    run_id: str,
    progress: Progress | None = None,
    assembled: tuple[Assembly, hardware.PeakMemory] | None = None,
) -> nn.Module:
    """Train, evaluate and write everything into the folder `path`; go on where an interrupted run stopped.

    Arguments:
        assembled: the objects of `cfg`, where they are there already, and the memory as it was before they were made.

    Raises TlmtlError when the run fails or its config is wrong; the folder then holds a row that says why.
    """
    progress = progress or Silent()
    with RunFolder(path) as folder, log_file(path), stopping.watching() as stop, Tracking(path) as tracking:
        parts, memory = assembled or (None, hardware.PeakMemory())
        run_id, former = folder.record.get("run_id") or run_id, folder.record.get("status")
        folder.tidy()
        if former == "done" and cfg.resume:
            raise ConfigError(f"The run in {path} has been finished by another process meanwhile.")
        if former == "done":
            folder.remove_checkpoint()  # a finished run that is made again is made anew
        try:
            with files.disk_errors():
                return _execute(cfg, folder, run_id, progress, parts, memory, stop, tracking)
        except BaseException as error:
            # A run that cannot go on now (its data are away, say) can go on later: it stays interrupted.
            begun = isinstance(error, ConfigError) and bool(folder.checkpoints())
            if folder.record.get("status") != "done":  # a signal after the last write changes nothing
                with stop.patiently():
                    mark(cfg, folder, run_id, error, interrupted=begun)
            raise
        finally:
            progress.close()


def _execute(
    cfg: DictConfig,
    folder: RunFolder,
    run_id: str,
    progress: Progress,
    parts: Assembly | None,
    memory: hardware.PeakMemory,
    stop: Stop,
    tracking: Tracking,
) -> nn.Module:
    begin(cfg, folder, run_id)
    parts = parts or assemble(cfg)
    machine, made = execution.begin(parts, folder, memory)
    log.info("%s", opening(parts, machine))
    # How a run starts, in this order: from its own checkpoint, else from the source, else from random parameters.
    belongs = {**outcome.hashes(parts), "config_hash": folder.record.get("config_hash"), "tlmtl": tlmtl.__version__}
    recorder = Recorder(folder, made, progress, belongs, stop, tracking)
    state = recorder.restore() or State()
    checkpoint.seed_everything(cfg.seed) if state.step == 0 else None
    folder.write_history(state.history)  # what an attempt wrote beyond that did not happen
    progress.start(parts.steps, state.step)
    tracking.start(parts.tracker, cfg, run_id, state.step, state.history)
    frozen = Frozen(parts, made, machine, files.cache_folder(cfg.output.cache))
    if why := why_not(parts, made.total * cfg.train.batch_size):
        log.info("Features of the frozen backbone are computed in every step: %s.", why)
    try:
        for phase in frozen.phases(state.step):
            for stream in (*phase.streams.values(), *phase.validation.values()):
                stream.ready()
            if parts.solver is not None:
                solve(parts.solver, phase, state, recorder)  # it writes nothing, so a signal may end it anywhere
                continue
            with stop.patiently():
                fit(phase, state, recorder)
        stop.check()
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            "Batch norm cannot train on a batch of one example here: train.batch_size=2 or more."
        ) from error
    check_best(made, state)
    made.model.load_state_dict({**made.model.state_dict(), **state.best_model})
    return outcome.finish(cfg, folder, run_id, parts, machine, made, state, memory, frozen)


def check_best(made: Setup, state: State) -> None:
    """Raises TrainingError where a branch has no best model."""
    if missing := [branch for branch in made.branches.tasks if branch not in state.best_step]:
        of = f" of {', '.join(missing)}" if len(made.branches) > 1 else ""
        raise TrainingError(
            f"There is no best model{of}: the loss on validation was never finite (try a smaller optimizer.lr), or no "
            "validation example has a label of a primary task."
        )


def begin(cfg: DictConfig, folder: RunFolder, run_id: str, ids: Mapping[str, str] | None = None) -> None:
    """What a run's folder says from its start on, and no longer of an earlier attempt.

    Arguments:
        ids: what `identity.ids` says of `cfg`, where that is known, and whatever else the record shall say.
    """
    (folder.path / "results.csv").unlink(missing_ok=True)  # rows of an earlier attempt
    folder.update(
        run_id=run_id,
        status="running",
        error=None,
        started=f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        process={"pid": os.getpid(), "host": platform.node()},
        **(ids or _ids(cfg, folder.record)),
    )
    if not cfg.resume:
        folder.write_config(cfg)


def _ids(cfg: DictConfig, record: Mapping[str, Any]) -> dict[str, str]:
    """Which run it is, which are its repeats, and which it can be compared with. A folder's own config no longer says what
    followed from the seed, so a run that `resume` names stays where it was put."""
    found = identity.ids(cfg)
    known = record if cfg.resume else {}
    return {**found, **{name: known[name] for name in ("group_id", "baseline_id") if known.get(name)}}


def mark(cfg: DictConfig, folder: RunFolder, run_id: str, error: BaseException, interrupted: bool = False) -> None:
    """Leave a row that says why the run is not done, as well as the disk lets us."""
    interrupted = interrupted or isinstance(error, KeyboardInterrupt | SystemExit | Stopped)
    status = "pruned" if isinstance(error, Pruned) else "interrupted" if interrupted else "failed"
    first = (str(error) or type(error).__name__).splitlines()[0]
    text = first if isinstance(error, TlmtlError) else f"{type(error).__name__}: {first}"
    if status == "pruned":
        log.info("%s", text, extra={"file_only": True})
        folder.remove_checkpoint()  # a search makes many of them, and a plain sweep runs this config from the start
    if status == "failed":
        if _comes_again(error):
            folder.remove_checkpoint()
        log.error("%s", text, exc_info=not isinstance(error, TlmtlError), extra={"file_only": True})
    try:
        folder.update(status=status, error=None if interrupted else text)
        rows = [
            outcome.row(cfg, folder, run_id, status, None if interrupted else text)
            | {"task": task, **results.provenance()}
            for task in identity.chosen_tasks(cfg)
        ]
        folder.write_rows(rows)
    except (OSError, ConfigError) as second:
        log.error("The folder's status could not be written either: %s", second)


def _comes_again(error: BaseException) -> bool:
    """Whether going on from the checkpoint would end the same way, or with what another program had begun: a loss that is
    not finite, an error in the code. A full disk, lacking memory or a limit of the sweep may be otherwise the next time."""
    if isinstance(error, TlmtlError):
        return isinstance(error, TrainingError)
    return not isinstance(error, OSError | MemoryError | torch.OutOfMemoryError)


def mark_failed(cfg: DictConfig, path: Path, run_id: str, reason: str) -> None:
    """The failed row of a run whose process could not write it any more."""
    with RunFolder(path) as folder, log_file(path):
        if folder.record.get("status") != "done":  # another process may have finished it in between
            mark(cfg, folder, folder.record.get("run_id") or run_id, TlmtlError(reason))


def opening(parts: Assembly, machine: hardware.Machine) -> str:
    plan = machine.plan
    formats = f"{plan['precision']}, {plan['memory_format']}" + (", compiled" if plan["compiled"] else "")
    lines = [f"{plan['device']} with {plan['threads']} thread(s), {formats}; {_how_long(parts)}"]
    for name, data in parts.data.items():
        sizes = ", ".join(f"{len(where)} {split}" for split, where in data.splits.items())
        lines.append(f"{sizes} examples" if len(parts.data) == 1 else f"{name}: {sizes} examples")
        for task, (_, there) in data.labels("train").items():
            if not there.all():
                lines.append(f"task {task}: {int(there.sum())} of {len(there)} training examples have its label")
    if parts.joint is not None:
        if not parts.joint.sampling.several(len(one.tasks) for one in parts.data.values()) and len(parts.tasks) > 1:
            lines.append(
                "Each step holds the loss of one task, so a weighting has nothing to compare: dataset.sampling=longest has a "
                "batch of every part in each step."
            )
        lines.append(parts.joint.sampling.line(parts.sizes, parts.cfg.train.batch_size))
    if not parts.weighting.scalar and not parts.groups.shared_at(0):
        lines.append("Nothing that tasks share trains at the start: the weighting is a plain sum until something does.")
    if parts.report and parts.source:
        lines.append(f"source {parts.source.about}: {parts.report.line()}")
        if parts.source.seen is None:
            lines.append("Whether test images were in the source's training cannot be known for this source.")
    lines += [note for data in parts.data.values() for note in data.examples.notes]
    for name, more in parts.further.items():
        lines += [
            f"evaluate.also.{name}: {note}" for note in [f"{len(more.splits['test'])} images", *more.examples.notes]
        ]
    return "\n".join(lines)


def _how_long(parts: Assembly) -> str:
    if parts.solver is None or "train.epochs" not in parts.solver.ignores:
        return f"{parts.steps} steps"
    return f"up to {parts.steps} settings are tried, on images as they are"


def log_file(path: Path) -> "_LogFile":
    return _LogFile(path / "log.txt")


class _LogFile:
    """Adds the run's log.txt to the program's log while a run lasts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        log.setLevel(logging.INFO)
        try:
            self.handler: logging.Handler = logging.FileHandler(self.path, encoding="utf-8")
        except OSError:
            self.handler = logging.NullHandler()
        self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(self.handler)

    def __exit__(self, *_: object) -> None:
        log.removeHandler(self.handler)
        self.handler.close()
