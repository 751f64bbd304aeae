"""One search: an Optuna study on disk that is asked for settings and told what came of them.

The study holds the trials' numbers, settings and scores; the runs themselves are folders like those of any sweep. What was
running when a process was killed is asked for again, and goes on from its checkpoint.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from tlmtl.errors import ConfigError, TlmtlError
from tlmtl.results import RunFolder
from tlmtl.search.samplers import Sampling
from tlmtl.search.space import Space
from tlmtl.sweep.plan import Job

log = logging.getLogger("tlmtl")

BUCKET = 5  # runs are compared at every 5 % of their length, the default of train.evaluate_every
RETRY = "again"  # a trial's mark: the number of the failed one whose settings it repeats
OWNER = "owner"  # a trial's mark: the sweep's folder that its run is in, where the storage is shared


@dataclass
class Entry:
    """A trial, as it stands in `tuning.csv`."""

    number: int
    settings: dict[str, str]
    job: Job | None = None  # None where its config was refused
    state: str = "running"  # running | done | pruned | failed
    score: float | None = None
    note: str = ""


@dataclass
class Search:
    """Asks and tells. `make` turns a trial's number and settings into a planned job and may raise ConfigError."""

    study: optuna.Study
    space: Space
    sampling: Sampling
    trials: int | None  # how many there shall be; None: all points of a grid
    make: Callable[[int, dict[str, str]], Job]
    retry: bool = True  # whether what failed in an earlier command is run again
    owner: str | None = None  # of a storage that others may write to: their trials are learned from, and left alone
    entries: dict[int, Entry] = field(default_factory=dict)
    open: dict[str, list[Trial]] = field(default_factory=dict)  # by a job's key: trials that wait for its end
    missing: list[Job] = field(default_factory=list)  # runs of finished trials whose folders are gone

    def __post_init__(self) -> None:
        """Take up what the study holds of earlier commands."""
        self.grid = self.space.points() if self.sampling.name == "grid" else []
        if self.grid:
            self.trials = min(self.trials or len(self.grid), len(self.grid))
        self.again: list[Job] = []  # what a killed process was at
        repeated = {trial.user_attrs[RETRY] for trial in self._all() if RETRY in trial.user_attrs}
        self.failed_before = []
        for trial in self._all():
            if self.owner and trial.user_attrs.get(OWNER) != self.owner:
                continue
            if trial.state == TrialState.RUNNING:
                self.study.sampler = self._sampler(trial.number)
                self.again += self._begin(Trial(self.study, trial._trial_id))
            elif trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
                self._finished(trial)
            elif trial.state == TrialState.FAIL and trial.number not in repeated:
                if self.retry:
                    self.failed_before.append(trial)
                else:
                    note = "failed in an earlier command"
                    self.entries[trial.number] = Entry(trial.number, self._texts(trial), state="failed", note=note)

    def jobs(self, room: int) -> list[Job]:
        """Up to `room` jobs to be run next; none when there is nothing left to do. Trials whose results are there already
        are told at once, and count."""
        found: list[Job] = []
        while len(found) < room:
            if self.missing:
                found.append(self.missing.pop(0))
            elif self.again:
                found.append(self.again.pop(0))
            elif (trial := self._ask()) is not None:
                found += self._begin(trial)
            else:
                break
        return found

    @property
    def left(self) -> int:
        """How many jobs `jobs` may still give."""
        own = sum(RETRY not in trial.user_attrs for trial in self._all())
        return max(0, (self.trials or 0) - own) + len(self.missing) + len(self.again) + len(self.failed_before)

    def ended(self, job: Job) -> None:
        """Tell the study how a job ended. One that was only interrupted stays open, for the next command."""
        if job.state not in ("done", "pruned", "failed"):
            return
        score = _score(job) if job.state == "done" else None
        for trial in self.open.pop(job.key, []):
            self._tell(trial, job, score)

    def judge(self, job: Job, step: int, score: float) -> bool:
        """Whether the run is to end: its best score so far is below the median of the others' at the same point."""
        trials = self.open.get(job.key)
        if not trials or not math.isfinite(score):
            return False
        trials[0].report(score, BUCKET * round(100 / BUCKET * step / max(job.steps, 1)))
        return bool(trials[0].should_prune())

    @property
    def best(self) -> Entry | None:
        """The trial with the highest score; the first of equals."""
        done = [entry for entry in self.entries.values() if entry.state == "done" and entry.score is not None]
        return min(done, key=lambda entry: (-(entry.score or 0), entry.number), default=None)

    def count(self, state: str) -> int:
        return sum(entry.state == state for entry in self.entries.values())

    def _all(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _sampler(self, number: int) -> Any:
        return self.sampling.of(number) or optuna.samplers.RandomSampler(seed=0)

    def _ask(self) -> Trial | None:
        there = self._all()
        waiting = any(trial.state == TrialState.WAITING for trial in there)  # put there just before a kill
        own = sum(RETRY not in trial.user_attrs for trial in there)
        if not waiting and (self.trials is None or own >= self.trials):
            if not self.failed_before:
                return None
            failed = self.failed_before.pop(0)
            self.study.enqueue_trial(failed.params, user_attrs={RETRY: failed.number})
        elif not waiting and self.grid:
            self.study.enqueue_trial(self.grid[own])
        self.study.sampler = self._sampler(len(there))
        trial = self.study.ask()
        if self.owner:
            trial.set_user_attr(OWNER, self.owner)
        return trial

    def _begin(self, trial: Trial) -> list[Job]:
        """The trial's job, if it is to be run."""
        texts = self.space.suggest(trial)
        entry = self.entries[trial.number] = Entry(trial.number, texts)
        try:
            entry.job = job = self.make(trial.number, texts)
        except ConfigError as error:
            entry.state, entry.note = "failed", str(error)
            log.error("Trial %d is not possible: %s", trial.number, error)
            self.study.tell(trial, state=TrialState.FAIL)
            return []
        if job.key in self.open:  # the same settings are running now
            self.open[job.key].append(trial)
            return []
        twins = [one.job for one in self.entries.values() if one is not entry and one.job and one.job.key == job.key]
        if twins and twins[0].state in ("done", "pruned", "failed"):
            entry.job = job = twins[0]
            self._tell(trial, job, _score(job) if job.state == "done" else None)
            return []
        self.open[job.key] = [trial]
        status = RunFolder(job.folder).record.get("status", "done")
        if job.reason and not (status == "pruned" and self._seen(trial)):
            return [job]
        job.state, job.reason = status, ""
        self.ended(job)
        return []

    def _tell(self, trial: Trial, job: Job, score: float | None) -> None:
        entry = self.entries[trial.number]
        entry.job, entry.score, entry.note = job, score, job.note
        if job.state == "pruned" and (seen := self._seen(trial)):
            entry.state, entry.score = "pruned", max(seen)
        else:
            entry.state = "failed" if score is None else "done"
        states = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL, "done": TrialState.COMPLETE}
        self.study.tell(trial, score, state=states[entry.state])

    def _seen(self, trial: Trial) -> list[float]:
        """What validation has said of the trial."""
        return list(self._all()[trial.number].intermediate_values.values())

    def _finished(self, trial: FrozenTrial) -> None:
        """A trial of an earlier command: its entry, and its run once more where the folder is gone."""
        pruned = trial.state == TrialState.PRUNED
        entry = Entry(trial.number, self._texts(trial), None, "pruned" if pruned else "done", trial.value)
        self.entries[trial.number] = entry
        entry.job = job = self.make(trial.number, entry.settings)
        if job.reason and not pruned:
            self.missing.append(job)
        else:
            job.reason, job.state = "", entry.state

    def _texts(self, trial: FrozenTrial) -> dict[str, str]:
        return self.space.texts(trial.params) if trial.params.keys() >= self.space.of.keys() else {}


def open_study(storage: str, name: str, pruner: Any, anew: bool) -> optuna.Study:
    """The study of that name, made if it is not there. SQLite is the default storage: a kill in the middle of a write leaves
    the transaction undone, whereas Optuna's journal file cannot be read any more once a half-written line was added to.

    Raises ConfigError when the storage cannot be opened.
    """
    try:
        place = RDBStorage(storage, engine_kwargs={"connect_args": {"timeout": 60}} if "sqlite" in storage else None)
        if anew and name in optuna.get_all_study_names(place):
            optuna.delete_study(study_name=name, storage=place)
        return optuna.create_study(
            storage=place, study_name=name, direction="maximize", load_if_exists=True, pruner=pruner
        )
    except TlmtlError:
        raise
    except Exception as error:  # SQLAlchemy has hundreds
        said = str(error).splitlines()[0]
        raise ConfigError(
            f"'hydra.sweeper.storage={storage}' cannot be opened: {said}. Expected a URL such as sqlite:///search.db."
        ) from error


def _score(job: Job) -> float | None:
    """What the run's best epoch was chosen by; None for a run that does not say."""
    score = RunFolder(job.folder).record.get("best_score")
    return float(score) if score is not None and math.isfinite(float(score)) else None
