"""From the configs of a sweep to its jobs: checked, made unique, each with its folder and whether it is to be run."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf

import tlmtl
from tlmtl import files, identity, outcome
from tlmtl.assemble import Assembly, assemble
from tlmtl.errors import ConfigError
from tlmtl.execution import image_steps
from tlmtl.initial import keep
from tlmtl.pretrain import check, kept, pretrains, with_source
from tlmtl.results import RunFolder, new_run_id
from tlmtl.sweep import server
from tlmtl.sweep.collect import rows_of
from tlmtl.sweep.fuse import Head, head_of
from tlmtl.sweep.limits import Limits, limits_of

log = logging.getLogger("tlmtl")
UNKNOWN = "?"  # the hash of a source that a dry run does not train


@dataclass
class Job:
    """One run of a sweep. `reason` says why it is run; an empty one means that its results are there already."""

    cfg: DictConfig
    label: str
    key: str
    folder: Path
    threads: int
    reason: str
    state: str = "waiting"  # waiting | running | done | failed | interrupted | pruned
    note: str = ""
    steps: int = 0  # of the whole run
    image_steps: int = 0  # those of them that take images through the backbone
    group: str = ""  # the same for its repeats
    to_come: int = 0  # jobs that a search will make after this one
    head: Head = field(default_factory=lambda: Head("it was not looked at"))
    ids: dict[str, str] = field(default_factory=dict)  # hashes of its config
    unit: str = ""  # the same for jobs that one process runs together
    together: int = 1  # how many those are

    @cached_property
    def draws(self) -> str:
        """The same for runs that draw the same batches with the same dropout: what is seen of that in a config."""
        keys = ("labels_per_class", "label_fraction", "subset_seed")
        return str([self.cfg.seed, *(self.cfg.dataset.get(key) for key in keys), self.cfg.head.dropout])

    @property
    def has_checkpoint(self) -> bool:
        return bool(RunFolder(self.folder).checkpoints())

    @property
    def run_id(self) -> str:
        return new_run_id(str(self.cfg.composed.choices.get("strategy", "run")), self.key)


# Asked at each validation (job, step, what epochs are chosen by: higher is better): whether the run is to end there.
Judge = Callable[[Job, int, float], bool]
# Given a job that ended; returns jobs to run after it. A search's next trial depends on those that ended.
More = Callable[[Job], list[Job]]


def expected(jobs: Sequence[Job]) -> int:
    """How many jobs there will be in the end."""
    return len(jobs) + (jobs[-1].to_come if jobs else 0)


@dataclass(frozen=True)
class Checked:
    """What is kept of a job's objects once they were found to be right: the objects themselves may be large."""

    threads: int
    data_hash: str
    source_hash: str | None
    further: dict[str, str]  # hashes of further test sets
    steps: int
    image_steps: int
    head: Head


@dataclass
class Known:
    """What was found out about earlier configs of a sweep, so that it is not looked for again."""

    # By group, and what backbone and data stand on: repeats that agree in those differ in nothing that could be wrong.
    checked: dict[str, Checked] = field(default_factory=dict)
    ready: dict[str, Checked] = field(default_factory=dict)  # the same, with sources in place
    sources: dict[str, str | None] = field(default_factory=dict)  # by backbone: the folder of its pre-trained source
    # By the config's identity as an object: the config, its hashes, and that of what its backbone and data stand on.
    ids: dict[int, tuple[DictConfig, tuple[dict[str, str], str]]] = field(default_factory=dict)
    # The last objects that were built, by what others like them have in common.
    alike: dict[str, Assembly] = field(default_factory=dict)

    def ids_of(self, cfg: DictConfig) -> tuple[dict[str, str], str]:
        if id(cfg) not in self.ids:
            self.ids[id(cfg)] = (cfg, identity.ids_and_backbone(cfg))
        return self.ids[id(cfg)][1]


@dataclass
class Sweep:
    folder: Path
    lock: FileLock  # held until the process ends: two that are told to do the same do it one after the other
    jobs: list[Job] = field(default_factory=list)
    dry: bool = False  # nothing is run, trained or written
    equal: list[tuple[str, str]] = field(default_factory=list)  # jobs that equal another one, and which

    @property
    def missing(self) -> list[Job]:
        return [job for job in self.jobs if job.reason]


def plan_sweep(configs: Sequence[DictConfig], labels: Sequence[str], swept: list[str]) -> Sweep:
    """Check every config, train the sources they need, and say which runs are missing or stale.

    Arguments:
        configs: checked configs, one per job.
        labels: how each job is called in tables of progress.
        swept: the keys that differ between the jobs.

    Raises ConfigError, naming the job, before anything of the sweep is started.
    """
    for cfg in configs:
        limits_of(cfg)
    known = Known()
    unique: dict[str, tuple[DictConfig, str]] = {}
    equal: list[tuple[str, str]] = []
    for cfg, label in zip(configs, labels, strict=True):
        try:
            key = known.ids_of(cfg)[0]["config_hash"]
        except ConfigError as error:
            raise _named(error, label) from error
        if key in unique:
            equal.append((label, unique[key][1]))
        else:
            unique[key] = (cfg, label)
    if equal:
        few = "; ".join(f"{label} (as {other})" for label, other in equal[:3]) + (" ..." if equal[3:] else "")
        log.info("%d job(s) equal another one and are run once: %s", len(equal), few)
    for cfg, label in unique.values():
        check_job(cfg, label, known)
    first = configs[0]
    sweep = open_sweep(first, first.sweep.name or identity.sweep_name(first, swept))
    sweep.equal = equal
    sweep.jobs = [plan_job(cfg, label, key, sweep.folder, known) for key, (cfg, label) in unique.items()]
    known.alike.clear()
    return sweep


def open_sweep(cfg: DictConfig, name: str) -> Sweep:
    """The sweep's folder, held by its lock: waits for another process that is at work on it. A dry run looks on."""
    if Path(name).name != name or name in ("", "..", "latest") or name.startswith("."):
        raise ConfigError(f"'sweep.name' should be a plain name for a folder, and not 'latest'. Found '{name}'.")
    folder = Path(cfg.output.root) / "sweeps" / name
    if limits_of(cfg).dry_run:
        return Sweep(folder, FileLock(folder / ".lock"), dry=True)
    files.make_folder(folder, "output.root")
    files.link(folder.parent / "latest", folder)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("Another process is at work on this sweep (%s): waiting until it has ended.", folder)
        lock.acquire()
    return Sweep(folder, lock)


def check_job(cfg: DictConfig, label: str, known: Known) -> Checked:
    """What can be known of a job before its source is trained. Raises ConfigError, naming the job, for what is wrong."""
    ids, backbone = known.ids_of(cfg)
    try:
        sourced = _sourced(cfg, backbone, known, train=False)
    except ConfigError:  # said by the check, with the place that it is in
        sourced = False
    return _check(cfg, label, (ids["group_id"], backbone), known, with_sources=sourced)


def plan_job(cfg: DictConfig, label: str, key: str, sweep: Path, known: Known) -> Job:
    """The job of `cfg` in the folder `sweep`, its source trained now where it is missing.

    Arguments:
        key: the config's hash, by which the job's folder is called.
    """
    limits = limits_of(cfg)
    ids, backbone = known.ids_of(cfg)
    sourced = _sourced(cfg, backbone, known, train=not limits.dry_run)
    found = _check(cfg, label, (ids["group_id"], backbone), known, with_sources=sourced)
    record = RunFolder(sweep / key).record
    reason = _reason(sweep / key, record, found, limits)
    item = Job(cfg, label or "run", key, sweep / key, found.threads, reason, steps=found.steps)
    item.image_steps, item.group, item.head = found.image_steps, ids["group_id"], found.head.of(backbone, cfg.seed)
    item.ids = ids
    if limits.rerun == "none" and record.get("status") == "failed":
        item.state, item.note = "failed", f"{record.get('error')} (left so: sweep.rerun=none)"
    if limits.rerun == "all" and not limits.dry_run:
        RunFolder(sweep / key).remove_checkpoint()  # from the beginning
    return item


def _check(cfg: DictConfig, label: str, ids: tuple[str, str], known: Known, with_sources: bool) -> Checked:
    """`ids`: the config's group, and what its backbone and data stand on."""
    seen, group = known.ready if with_sources else known.checked, " ".join(ids)
    if group not in seen:
        alike = f"{ids[1]} {with_sources}"
        like = known.alike.get(alike)
        try:
            parts = assemble(cfg, like=like) if like is not None or with_sources else check(cfg)
        except ConfigError as error:
            raise _named(error, label) from error
        known.alike = {alike: parts}
        if server.forks():
            keep(cfg, parts.source)
        further = {name: data.hash for name, data in parts.further.items()}
        own = outcome.hashes(parts)
        source = own["source_hash"] if with_sources or not identity.needs_source(cfg) else UNKNOWN
        seen[group] = Checked(
            parts.threads, own["data_hash"], source, further, parts.units.total, image_steps(parts), head_of(parts)
        )
    return seen[group]


def _sourced(cfg: DictConfig, backbone: str, known: Known, train: bool) -> bool:
    """Whether the run's pre-trained source is there, if it needs one; `cfg` then names it. Looked for once per backbone.

    Arguments:
        train: whether a source that is not there is made.
    """
    if not pretrains(cfg):
        return True
    if backbone not in known.sources:
        known.sources[backbone] = kept(cfg)
    if known.sources[backbone] is None and train:
        # What trains here cannot be forked from afterwards.
        known.sources[backbone] = with_source(cfg, server.start).source.path
    path = known.sources[backbone]
    if path is not None:
        OmegaConf.update(cfg, "source.path", path, force_add=True)
    return path is not None


def _reason(folder: Path, record: dict[str, Any], now: Checked, limits: Limits) -> str:
    """Why the run in `folder` is to be made, or "" when config, data, source and program agree with what is there."""
    status = record.get("status")
    if status is not None and limits.rerun == "all":
        return "again"
    if status == "failed" and limits.rerun == "none":
        return ""
    if status != "done":
        return {None: "missing", "failed": "failed before", "pruned": "pruned before"}.get(status, "interrupted")
    hashes = record.get("hashes", {})
    for what, then, wanted in (
        ("tlmtl's version", record.get("tlmtl"), tlmtl.__version__),
        ("the data", hashes.get("data_hash"), now.data_hash),
        ("a further test set", hashes.get("further", {}), now.further),
        ("the source parameters", hashes.get("source_hash"), now.source_hash),
    ):
        if then != wanted and wanted != UNKNOWN:
            if limits.rerun == "none":
                log.info("%s is stale: %s changed (%s, now %s); it is left.", folder.name, what, then, wanted)
                return ""
            log.info("%s is stale: %s changed (%s, now %s); it is run again.", folder.name, what, then, wanted)
            return "stale"
    return "missing" if rows_of(folder / "results.csv") is None else ""


def _named(error: ConfigError, label: str) -> ConfigError:
    return ConfigError(f"In the job {label}: {error}" if label else str(error))
