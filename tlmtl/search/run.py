"""`hydra/sweeper=optuna`: a search for settings by their score on validation, resumable, in a sweep's folder."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tlmtl
from tlmtl import identity
from tlmtl.errors import ConfigError
from tlmtl.search import drive
from tlmtl.search.samplers import Sampling, pruner_of
from tlmtl.search.space import Space, parse
from tlmtl.search.study import Search, open_study
from tlmtl.sweep.launcher import TlmtlLauncher
from tlmtl.sweep.limits import limits_of
from tlmtl.sweep.plan import Checked, Job, Known, check_job, open_sweep, plan_job
from tlmtl.sweep.run import run_sweep

log = logging.getLogger("tlmtl")

STUDY = "study.db"


@dataclass
class Settings:
    """`hydra.sweeper`, as that sweeper's users know it."""

    n_trials: Any = 20
    n_jobs: Any = None  # runs at once; as many as a sweep has when not given
    direction: Any = "maximize"
    study_name: str | None = None
    storage: str | None = None
    sampler: Any = "tpe"
    pruner: Any = "median"


def search(launcher: TlmtlLauncher, words: Sequence[str], settings: Settings) -> bool:
    """Run a search from its first open trial to its table. Returns whether a run failed.

    Arguments:
        words: the overrides as they were typed, with what is searched.

    Raises ConfigError before the first run when any value that can be chosen is wrong.
    """
    n_trials, n_jobs = whole(settings.n_trials, "n_trials"), whole(settings.n_jobs, "n_jobs")
    if settings.direction not in ("maximize", None):
        raise ConfigError(
            "'hydra.sweeper.direction' can only be maximize: a run's score on validation, which its best epoch is chosen by, "
            f"is better when it is higher. Found {settings.direction}."
        )
    fixed, space = parse(words, launcher.loader)
    check_space(space)
    known = Known()
    first, found = corners(launcher, fixed, space, known)
    limits = limits_of(first)
    if first.tune.trials is not None:
        raise ConfigError(
            "tune.trials (+experiment=fair) searches for each method by itself: leave out hydra/sweeper=optuna, or tune.trials."
        )
    sampling = Sampling(settings.sampler, first.seed)
    pruner = pruner_of(settings.pruner)
    runner = launcher.runner
    if sampling.name == "grid":
        n_trials = min(n_trials or len(space.points()), len(space.points()))
    drawn = [space.describe(), sampling.describe(), str(settings.pruner)]
    if limits.dry_run:
        log.info("Searching %s", said(space))
        log.info(
            "%s trial(s), one corner of the space checked after another. A dry run: nothing was run or written.",
            n_trials,
        )
        return False
    name = first.sweep.name or identity.sweep_name(first, [*space.of], drawn)
    sweep = open_sweep(first, name)

    def make(number: int, texts: dict[str, str]) -> Job:
        cfg = launcher.compose([*fixed, *(f"{key}={value}" for key, value in texts.items())], number)
        if n_jobs:
            cfg.hardware.workers = n_jobs
        return plan_job(cfg, f"trial {number}: {label(texts)}", identity.config_hash(cfg), sweep.folder, known)

    study = open_study(
        settings.storage or f"sqlite:///{sweep.folder.resolve() / STUDY}",
        settings.study_name or study_name(name, drawn, found),
        pruner,
        anew=limits.rerun == "all",
    )
    owner = str(sweep.folder.resolve()) if settings.storage else None
    one = Search(study, space, sampling, n_trials, make, limits.rerun != "none", owner)
    before = sum(one.count(state) for state in ("done", "pruned", "failed"))
    threads = max(check.threads for check in found)
    driven = drive.Drive({"": one}, sweep, runner, drive.at_once(n_jobs, first, threads), sweep.folder / drive.TUNING)
    driven.begin()
    log.info("Searching %s", said(space))
    failed = run_sweep(sweep, driven, about=f"{one.trials} trial(s), {before} there already.")
    driven.write()
    tell(one, fixed, sweep.folder)
    return failed or any(entry.state == "failed" for entry in one.entries.values())


def tell(one: Search, fixed: list[str], folder: Any) -> None:
    """What came of it: counts, the best trial by validation and how to run it again, ends of intervals that it lies at."""
    counts = ", ".join(f"{one.count(state)} {state}" for state in ("done", "pruned", "failed") if one.count(state))
    print(f"{len(one.entries)} trial(s): {counts}. {folder / drive.TUNING} has them all.")
    best = one.best
    if best is None:
        log.error("No trial has finished, so there is no best one.")
        return
    own = [word for word in fixed if word.lstrip("+").split("=")[0].split(".")[0] not in ("sweep", "progress")]
    settings = [f"{key}={value}" for key, value in best.settings.items()]
    print(f"Best by validation: trial {best.number}, score {best.score:.4f} ({label(best.settings)}). Run it again:")
    print(f"  tlmtl train {' '.join(quoted(word) for word in [*own, *settings])}")
    for key in one.space.at_edge(best.settings):
        log.warning(
            "The best %s (%s) is at the edge of the space (%s): a better one may lie beyond.",
            key.lstrip("+"), best.settings[key], one.space.describe()[key],
        )  # fmt: skip


def corners(
    launcher: TlmtlLauncher, fixed: list[str], space: Space, known: Known, method: str = ""
) -> tuple[Any, list[Checked]]:
    """The config of the first corner of the space, and what the checks of all of them found."""
    first, found = None, []
    for texts in space.corners():
        cfg = launcher.compose([*fixed, *(f"{key}={value}" for key, value in texts.items())])
        identity.config_hash(cfg)
        found.append(check_job(cfg, f"{method} {label(texts)}".strip(), known))
        first = cfg if first is None else first
    return first, found


def check_space(space: Space) -> None:
    if not space.of:
        raise ConfigError(
            "A search needs something to choose from: a list (strategy=linear_probe,finetune_all) or an interval "
            "('optimizer.lr=tag(log,interval(1e-4,1e-1))')."
        )
    for key in space.of:
        bare = key.lstrip("+")
        if bare == "seed" or bare.endswith("_seed"):
            raise ConfigError(
                f"'{bare}' cannot be searched: a lucky seed is no setting. Search with one, then run the best with others, or "
                "let +experiment=fair do both."
            )
        if bare.split(".")[0] in ("output", "sweep", "tune", "progress", "resume", "allow"):
            raise ConfigError(f"'{bare}' cannot be searched: it changes no result.")


def study_name(folder: str, drawn: list[Any], found: list[Checked]) -> str:
    """Another one when data or program changed: scores of before say nothing about them."""
    stands_on = [drawn, sorted({check.data_hash for check in found}), tlmtl.__version__]
    return f"{folder}-{hashlib.sha256(json.dumps(stands_on, default=str).encode()).hexdigest()[:8]}"


def whole(value: Any, key: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"'hydra.sweeper.{key}' should be a whole number, 1 or more. Found {value}.")
    return value


def said(space: Space) -> str:
    return "; ".join(f"{key.lstrip('+')}: {text}" for key, text in space.describe().items())


def label(texts: dict[str, str]) -> str:
    return " ".join(f"{key.lstrip('+')}={value}" for key, value in texts.items())


def quoted(word: str) -> str:
    """A word as the shell takes it."""
    import shlex

    return shlex.quote(word)
