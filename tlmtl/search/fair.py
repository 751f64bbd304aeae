"""`tune.trials=N`: every method of a sweep gets the same budget for its settings before methods are compared.

Each tries N settings from one space, with one seed; the best by validation is run again with seeds that chose nothing. The
table holds these runs alone. What choosing cost stands beside it, trial by trial, in `tuning.csv`; the trials' runs lie in
`trials/` below the sweep's folder, where no table looks for results.
"""

import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tlmtl import files, identity
from tlmtl.config import check_seed
from tlmtl.errors import ConfigError
from tlmtl.results import RunFolder
from tlmtl.search import drive
from tlmtl.search.run import STUDY, check_space, corners, label, said, study_name
from tlmtl.search.samplers import Sampling, pruner_of
from tlmtl.search.space import Space, from_config
from tlmtl.search.study import Entry, Search, open_study
from tlmtl.sweep.launcher import TlmtlLauncher, varied
from tlmtl.sweep.limits import limits_of
from tlmtl.sweep.plan import Checked, Job, Known, Sweep, open_sweep, plan_job
from tlmtl.sweep.run import run_sweep

log = logging.getLogger("tlmtl")

TRIALS = "trials"  # the folder of the trials' runs
CHOSEN = "chosen.json"  # what each method was run again with


@dataclass
class Method:
    """One combination of what is swept: what the protocol compares."""

    label: str
    overrides: list[str]
    cfg: DictConfig
    checked: list[Checked] = field(default_factory=list)


def fair(launcher: TlmtlLauncher, job_overrides: Sequence[Sequence[str]]) -> bool:
    """Tune each method, run what was chosen with fresh seeds, print both. Returns whether a run failed.

    Raises ConfigError before the first run for what is wrong with any of them.
    """
    swept = varied([list(job) for job in job_overrides])
    methods, equal = _methods(launcher, job_overrides, swept)
    first = methods[0].cfg
    seeds, space = _seeds(first), from_config(first.tune.space, launcher.loader)
    _check(first, space, job_overrides[0], swept)
    sampling, known = Sampling(first.tune.sampler, first.seed, "tune.sampler"), Known()
    if sampling.name == "grid":
        space.points()
    for method in methods:
        method.checked = corners(launcher, method.overrides, space, known, method.label)[1]
    drawn = ["fair", space.describe(), sampling.describe()]
    name = first.sweep.name or identity.sweep_name(first, [*swept, *space.of, "seed"], drawn)
    runner, limits = launcher.runner, limits_of(first)
    log.info(
        "Equal budgets: %d method(s), %d trial(s) each (%s), then %d seed(s) of what was chosen. Each draws from %s",
        len(methods), first.tune.trials, sampling.name, len(seeds), said(space),
    )  # fmt: skip
    if limits.dry_run:
        print(f"{len(methods) * first.tune.trials} trial(s) at most, then {len(methods) * len(seeds)} run(s).")
        print("A dry run: nothing was run or written.")
        return False
    sweep = open_sweep(first, name)
    sweep.equal = equal
    searches = {
        method.label: _search(launcher, method, space, sampling, sweep.folder, known, drawn) for method in methods
    }
    threads = max(check.threads for method in methods for check in method.checked)
    trials = Sweep(sweep.folder / TRIALS, sweep.lock)
    driven = drive.Drive(searches, trials, runner, drive.at_once(None, first, threads), sweep.folder / drive.TUNING)
    driven.begin()
    if driven.waiting:
        driven(driven.waiting)
    driven.write()
    _choose(launcher, methods, searches, seeds, sweep, known)
    failed = run_sweep(
        sweep, runner, about=f"Tuned; {len(sweep.jobs)} run(s) with fresh seeds, {len(sweep.missing)} to do."
    )
    _tell(methods, searches, first, space, sweep.folder)
    return failed or any(search.count("failed") for search in searches.values())


def _methods(
    launcher: TlmtlLauncher, job_overrides: Sequence[Sequence[str]], swept: list[str]
) -> tuple[list[Method], list[tuple[str, str]]]:
    """The methods, each once, and those that equal another one."""
    unique: dict[str, Method] = {}
    equal = []
    for number, job in enumerate(job_overrides):
        overrides = [word for word in job if word.lstrip("+").partition("=")[0] != "seed" or "seed" in swept]
        cfg = launcher.compose(list(job), number)
        name = " ".join(word.lstrip("+") for word in job if word.split("=")[0] in swept)
        method = Method(name or f"strategy={cfg.composed.choices.get('strategy')}", overrides, cfg)
        key = identity.config_hash(cfg)
        if key in unique:
            equal.append((method.label, unique[key].label))
        unique.setdefault(key, method)
    return list(unique.values()), equal


def _seeds(cfg: DictConfig) -> list[int]:
    """The fresh seeds; raises ConfigError when one of them is none."""
    seeds = list(cfg.tune.seeds)
    for seed in seeds:
        check_seed(seed, "tune.seeds")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"'tune.seeds' should be seeds, each once, such as [1,2,3]. Found {seeds}.")
    if cfg.seed in seeds:
        raise ConfigError(
            f"'tune.seeds' holds {cfg.seed}, the seed that settings are chosen with: its runs would look better than they are. "
            f"Leave it out, or choose with another: seed={max(seeds) + 1}."
        )
    return seeds


def _check(cfg: DictConfig, space: Space, overrides: Sequence[str], swept: list[str]) -> None:
    if cfg.tune.trials < 1:
        raise ConfigError(f"'tune.trials' should be 1 or more. Found {cfg.tune.trials}.")
    if not space.of:
        raise ConfigError(
            "'tune.space' is empty: tune.trials needs settings to choose from. +experiment=fair has rates and weight decay; "
            "'tune.space.optimizer.lr=tag(log,interval(1e-4,1e-1))' is one of your own."
        )
    check_space(space)
    for key in swept:
        bare = key.lstrip("+")
        if bare == "seed" or bare.split(".")[0] == "tune":
            raise ConfigError(
                f"'{bare}' cannot be swept with tune.trials: settings are chosen with one seed, the chosen ones run with "
                "others: tune.seeds=[1,2,3]. All methods have one budget and one space."
            )
    typed = {word.lstrip("+").partition("=")[0] for word in overrides}
    for key in space.of:
        if key.lstrip("+") in typed:
            raise ConfigError(
                f"'{key.lstrip('+')}' is set on the command line and stands in 'tune.space' too. Take it out of one: "
                f"tune.space.{key.lstrip('+')}=null leaves it to the command line."
            )


def _search(
    launcher: TlmtlLauncher,
    method: Method,
    space: Space,
    sampling: Sampling,
    folder: Path,
    known: Known,
    drawn: list[Any],
) -> Search:
    limits = limits_of(method.cfg)

    def make(number: int, texts: dict[str, str]) -> Job:
        cfg = launcher.compose([*method.overrides, *(f"{k}={v}" for k, v in texts.items()), f"seed={method.cfg.seed}"])
        about = f"{method.label}, trial {number}: {label(texts)}"
        return plan_job(cfg, about, identity.config_hash(cfg), folder / TRIALS, known)

    name = study_name(folder.name, [*drawn, method.label], method.checked)
    study = open_study(f"sqlite:///{folder.resolve() / STUDY}", name, pruner_of("none"), anew=limits.rerun == "all")
    return Search(study, space, sampling, method.cfg.tune.trials, make, retry=limits.rerun != "none")


def _choose(
    launcher: TlmtlLauncher,
    methods: list[Method],
    searches: dict[str, Search],
    seeds: list[int],
    sweep: Sweep,
    known: Known,
) -> None:
    """The sweep's jobs: each method's best trial with every seed. Runs of what was chosen before go to the trials."""
    before = _read(sweep.folder / CHOSEN)
    now = dict(before)
    jobs: list[Job] = []
    for method in methods:
        best = searches[method.label].best
        if best is None:
            log.error("No trial of %s has finished, so it has no row.", method.label)
            now.pop(method.label, None)
            continue
        for seed in seeds:
            settings = [f"{key}={value}" for key, value in best.settings.items()]
            cfg = launcher.compose([*method.overrides, *settings, f"seed={seed}"])
            about = f"{method.label} seed={seed}"
            jobs.append(plan_job(cfg, about, identity.config_hash(cfg), sweep.folder, known))
        now[method.label] = {"group": jobs[-1].group, "trial": best.number, "score": best.score, **best.settings}
    gone = {one["group"] for one in before.values()} - {one["group"] for one in now.values()}
    for path in sorted(sweep.folder.glob("*/run.json")):
        if RunFolder(path.parent).record.get("group_id") in gone:
            place = sweep.folder / TRIALS / path.parent.name
            shutil.rmtree(place, ignore_errors=True)
            shutil.move(path.parent, place)
    files.write_text(sweep.folder / CHOSEN, json.dumps(now, indent=2) + "\n")
    sweep.jobs = jobs


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _tell(methods: list[Method], searches: dict[str, Search], cfg: DictConfig, space: Space, folder: Path) -> None:
    """What choosing took, and what was chosen."""
    print(
        f"\nChosen on validation with seed {cfg.seed}, from {cfg.tune.trials} trial(s) of each method; the table's runs have "
        f"other seeds. {folder / drive.TUNING} has all trials."
    )
    header = ["method", "trials", "failed", "seconds", "score", "chosen"]
    lines = [header]
    for method in methods:
        search = searches[method.label]
        spent = [seconds for entry in search.entries.values() if (seconds := drive.seconds(entry)) is not None]
        best = search.best
        lines.append([
            method.label, str(len(search.entries)), str(search.count("failed")), f"{sum(spent):.1f}",
            f"{best.score:.4f}" if best else "-", label(best.settings) if best else "none has finished",
        ])  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [
            cell.ljust(w) if i in (0, 5) else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    for method in methods:
        if best := searches[method.label].best:
            warn_of_edges(method, best, space)


def warn_of_edges(method: Method, best: Entry, space: Space) -> None:
    for key in space.at_edge(best.settings):
        log.warning(
            "%s: the best %s (%s) is at the edge of the space (%s): a better one may lie beyond.",
            method.label, key.lstrip("+"), best.settings[key], space.describe()[key],
        )  # fmt: skip
