"""Many runs that differ in their heads alone, in one process: each in a folder of its own, all of them trained at once."""

import dataclasses
import errno
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from tlmtl import artifacts, execution, files, hardware, job, outcome, results, stopping
from tlmtl.assemble import Assembly, assemble, setup
from tlmtl.bank.fit import fit_together
from tlmtl.bank.member import Member, head_alone
from tlmtl.errors import Stopped
from tlmtl.features.frozen import Frozen
from tlmtl.hardware import Machine
from tlmtl.progress import Progress
from tlmtl.results import RunFolder
from tlmtl.stopping import Stop
from tlmtl.store.held import more_files
from tlmtl.training import Setup, State, Watch

log = logging.getLogger("tlmtl")
# Told of each run that ended: its number, and what ended it before it was done.
Ended = Callable[[int, BaseException | None], None]


@dataclass
class Planned:
    """One of the runs. `ids` are the hashes of its config (`identity.ids`)."""

    cfg: DictConfig
    path: Path
    run_id: str
    progress: Progress
    ids: Mapping[str, str]


def execute_together(planned: Sequence[Planned], ended: Ended) -> None:
    """Train and evaluate runs that may be trained together (`sweep/fuse.py`) and write everything into their folders.

    A run that fails by itself leaves the others as they are. Raises Stopped where a signal asked for it, and whatever goes
    wrong with all of them at once; runs that were not done are then interrupted, and begin anew.
    """
    memory, runs = hardware.PeakMemory(), [_Run(one, number, len(planned)) for number, one in enumerate(planned)]
    more_files()  # each run holds its lock
    with stopping.watching() as stop:
        try:
            before: _Run | None = None
            for run in runs:
                if run.attempt(partial(run.begin, before, stop), ended):
                    before = run
            left = [run for run in runs if not run.over]
            _check(left)
            if left:
                with stop.patiently():
                    fit_together([run.member for run in left if run.member is not None])
                stop.check()
            made = results.provenance()
            for run in left:
                run.attempt(partial(run.finish, memory, made), ended)
        except BaseException as error:
            with stop.patiently():
                for run in runs:
                    run.end(error, interrupted=True)
            raise


def _check(runs: Sequence["_Run"]) -> None:
    """Raises RuntimeError where runs differ in what one's features serve all of them for: then each is run by itself."""
    if (
        len({(run.parts.source and run.parts.source.hash, *(d.hash for d in run.parts.data.values())) for run in runs})
        > 1
    ):
        raise RuntimeError("they do not have one source and the same splits of the same data")


class _Run:
    def __init__(self, planned: Planned, number: int, count: int) -> None:
        self.planned, self.number, self.count = planned, number, count
        self.cfg, self.run_id, self.folder = planned.cfg, planned.run_id, RunFolder(planned.path)
        self.held = self.over = False
        self.member: Member | None = None
        self.parts: Assembly
        self.machine: Machine
        self.backbone: str
        self.made: Setup
        self.frozen: Frozen

    def attempt(self, act: Callable[[], None], ended: Ended) -> bool:
        """Whether `act` succeeded; what it raises is this run's failure alone, unless it comes of their number."""
        if self.over:
            return False
        try:
            with files.disk_errors():
                self.folder.path.mkdir(parents=True, exist_ok=True)
                with job.log_file(self.folder.path):
                    act()
        except (Stopped, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            self.end(error)
            ended(self.number, error)
            return False
        if self.over:
            ended(self.number, None)
        return True

    def begin(self, before: "_Run | None", stop: Stop) -> None:
        """Up to where training starts. What the run has in common with the one `before` is taken from there."""
        self.folder.__enter__()
        self.held = True
        self.run_id = self.folder.record.get("run_id") or self.run_id
        self.folder.tidy()
        self.folder.remove_checkpoint()
        plan: dict[str, Any] = {"plan": before.machine.plan} if before else {}
        job.begin(self.cfg, self.folder, self.run_id, {**self.planned.ids, **plan})
        (self.folder.path / "history.csv").unlink(missing_ok=True)  # of an earlier attempt
        self.parts = assemble(self.cfg, like=before.parts if before else None)
        if before is None:
            machine = execution.machine(self.parts)
            self.machine = dataclasses.replace(machine, plan={**machine.plan, "fused_with": self.count})
            self.folder.update(plan=self.machine.plan)
            self.backbone = artifacts.write_backbone(self.folder.path.parent, self.parts.model)
        else:
            self.machine, self.backbone = before.machine, before.backbone
        self.made = setup(self.parts, self.machine)
        log.info("%s", job.opening(self.parts, self.machine))
        log.info("Its head is trained together with those of %d other runs.", self.count - 1)
        cache = files.cache_folder(self.cfg.output.cache)
        self.frozen = Frozen(self.parts, self.made, self.machine, cache, before.frozen if before else None)
        (phase,) = self.frozen.phases(0)
        for stream in (*phase.streams.values(), *phase.validation.values()):
            stream.ready()
        self.planned.progress.start(self.made.total, 0)
        (data,) = self.parts.data.values()
        watch = _Look(self.planned.progress, stop)
        self.member = Member(head_alone(phase), State(), watch, (data.subset_hash, self.cfg.seed), self.cfg.seed)

    def finish(self, memory: hardware.PeakMemory, made: Mapping[str, Any]) -> None:
        assert self.member is not None
        if self.member.error is not None:
            raise self.member.error
        state, alone = self.member.state, self.member.setup
        job.check_best(alone, state)
        alone.model.load_state_dict(state.best_model)  # whose head is the run's own
        outcome.finish(
            self.cfg, self.folder, self.run_id, self.parts, self.machine, self.made, state, memory, self.frozen,
            self.backbone, made,
        )  # fmt: skip
        self._release()

    def end(self, error: BaseException, interrupted: bool = False) -> None:
        """Leave the run as one that failed, or was interrupted, unless it ended before."""
        if self.held and self.folder.record.get("status") != "done":  # a signal after the last write changes nothing
            with job.log_file(self.folder.path):
                if self.member is not None and not interrupted:
                    try:
                        self.folder.write_history(self.member.state.history)
                    except OSError as second:
                        log.error("Its history could not be written either: %s", second)
                job.mark(self.cfg, self.folder, self.run_id, error, interrupted)
        self._release()

    def _release(self) -> None:
        self.over = True
        self.planned.progress.close()
        if self.held:
            self.folder.__exit__()
            self.held = False


class _Look(Watch):
    """What a run of many tells and is asked while all are trained."""

    def __init__(self, progress: Progress, stop: Stop) -> None:
        self.progress, self.stop = progress, stop

    def evaluated(self, state: State, metrics: Mapping[str, Mapping[str, float]], scores: Mapping[str, float]) -> None:
        self.progress.evaluated(state.step, metrics, scores)

    def stop_asked(self, state: State) -> Exception | None:
        return self.stop.error("while it was trained with others: it begins anew")
