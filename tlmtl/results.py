"""A run's folder: who may write it, its status, and its files, each of them whole or not there."""

import csv
import io
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper

import tlmtl
from tlmtl import files
from tlmtl.columns import ordered
from tlmtl.errors import ConfigError

HISTORY = ["step", "epoch", "split", "task", "name", "value"]


class RunFolder:
    """The folder of one run, held by a lock while `with` lasts.

    `status` is running, done, failed or interrupted. A run whose process was killed still says running, but nobody holds
    its lock: that is an interrupted run, too.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, FileLock(path / ".lock")

    def __enter__(self) -> "RunFolder":
        files.make_folder(self.path, "output.root")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise ConfigError(f"{self.path} is in use by {self._holder()}. Wait for it, or stop it.") from error
        return self

    def _holder(self) -> str:
        """Who holds the lock, as far as `run.json` says: whoever takes it writes that down a moment later."""
        process = self.record.get("process") or {}
        if not process.get("pid"):
            return "another process"
        return f"another process (last begun by process {process['pid']} on {process.get('host', '?')})"

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    @property
    def record(self) -> dict[str, Any]:
        """`run.json`, or {} when it is not there or not readable."""
        try:
            return json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def update(self, **values: Any) -> None:
        record = {**self.record, **values}
        files.write_text(self.path / "run.json", json.dumps(record, indent=2, default=str) + "\n")

    @property
    def checkpoint(self) -> Path:
        """The folder of the run's checkpoints, `<step>.pt`."""
        return self.path / "checkpoint"

    def checkpoints(self) -> list[Path]:
        """The newest first."""
        found = [path for path in self.checkpoint.glob("*.pt") if path.stem.isdecimal()]
        return sorted(found, key=lambda path: int(path.stem), reverse=True)

    def write_config(self, cfg: DictConfig) -> None:
        files.write_text(self.path / "config.yaml", to_yaml(cfg))

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        write_rows(self.path / "results.csv", rows)

    def write_history(self, history: Iterable[Sequence[Any]]) -> None:
        files.write_text(self.path / "history.csv", _csv(HISTORY, history))

    def remove_checkpoint(self) -> None:
        shutil.rmtree(self.checkpoint, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what a kill in the middle of a write left behind; call while the lock is held."""
        for path in [*self.path.glob(".*.*"), *self.checkpoint.glob(".*.*")]:
            path.unlink(missing_ok=True)


def to_yaml(cfg: DictConfig) -> str:
    """`cfg`, resolved, as `OmegaConf.to_yaml` writes it; by libyaml, which takes a fifth of the time, where it is installed."""
    plain = get_omega_conf_dumper()
    if not yaml.__with_libyaml__:
        return OmegaConf.to_yaml(cfg, resolve=True)

    class Dumper(yaml.CDumper):
        yaml_representers = plain.yaml_representers

    content = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    return yaml.dump(content, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=Dumper)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of a metrics table, in the contract's order of columns. What was not measured is empty."""
    names: list[str] = []
    for row in rows:  # a task's first metric is its main one, so each row's own order is kept
        before = len(names)
        for name in reversed(list(row) if row.keys() - set(names) else []):
            if name in names:
                before = names.index(name)
            else:
                names.insert(before, name)
    names = ordered(names)
    files.write_text(path, _csv(names, ([_cell(row.get(name)) for name in names] for row in rows)))


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if value is None or value != value:  # None or NaN: not measured
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return value


def new_run_id(strategy: str, config_hash: str) -> str:
    """`<time>_<strategy>_<hash>`, sortable by time."""
    return f"{datetime.now():%Y%m%d-%H%M%S}_{strategy}_{config_hash}"


def new_folder(runs: Path, run_id: str) -> Path:
    """A folder of that name that nobody else has, however fast runs start."""
    files.make_folder(runs, "output.root")
    for number in range(1, 10_000):
        path = runs / (run_id if number == 1 else f"{run_id}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise ConfigError(f"No free name is left for {run_id} in {runs}.")


def find_interrupted(runs: Path, config_hash: str) -> Path | None:
    """The newest run of this config that was begun and not finished, and that nobody is working on. One that failed counts
    when it left a checkpoint, which it does where going on may help."""
    for path in sorted(runs.glob(f"*_{config_hash}*"), reverse=True):
        status = None if path.is_symlink() else RunFolder(path).record.get("status")
        if status not in ("running", "interrupted") and not (status == "failed" and RunFolder(path).checkpoints()):
            continue
        try:
            with RunFolder(path):
                return path
        except ConfigError:
            continue
    return None


def provenance() -> dict[str, Any]:
    """The columns that say which program made a row."""
    return {"tlmtl": tlmtl.__version__, "torch": _version("torch"), "git_sha": _git_sha()}


def versions() -> dict[str, str]:
    names = [
        "torch",
        "torchvision",
        "timm",
        "hydra-core",
        "omegaconf",
        "numpy",
        "scikit-learn",
    ]
    return {"python": platform.python_version(), **{name: _version(name) for name in names}}


@cache
def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _git_sha() -> str | None:
    """The commit of the working folder that the run was started in, `-dirty` when files differ from it.

    The repository may be a stranger's, and nothing of it is run: no file monitor, no hook, no filter. So what looks changed is
    compared as it is.
    """
    try:
        commit = _git("rev-parse", "--short=12", "HEAD").strip()
        top = _git("rev-parse", "--show-toplevel").strip()
        lines = _git("-C", top, "diff-files", "--raw", "--no-abbrev", "-z", "--ignore-submodules").split("\0")
        looks = dict(zip(lines[1::2], lines[::2], strict=False))  # by path: what the index has of it
        there = {path: line.split()[2] for path, line in looks.items() if line.split()[4] == "M" and "\n" not in path}
        hashes = (
            _git("-C", top, "hash-object", "--no-filters", "--stdin-paths", input="\n".join(there)) if there else ""
        )
        changed = len(there) < len(looks) or hashes.split() != list(there.values())
        staged = _git("diff-index", "--cached", "--raw", "--ignore-submodules", "HEAD")
    except (OSError, subprocess.SubprocessError, IndexError):
        return None
    return f"{commit}-dirty" if changed or staged else commit


def _git(*words: str, input: str = "") -> str:
    """What git prints, with everything switched off that a repository's config could have it run."""
    quiet = {"core.fsmonitor": "false", "core.hooksPath": os.devnull}
    asked = ["git", "config", "-z", "--name-only", "--get-regexp", "^filter[.]"]
    found = subprocess.run(asked, capture_output=True, text=True, timeout=10).stdout.split("\0")
    quiet |= {name: "false" if name.endswith(".required") else "" for name in found if name}
    numbered = [
        (f"GIT_CONFIG_{word}_{i}", text)
        for i, pair in enumerate(quiet.items())
        for word, text in zip(("KEY", "VALUE"), pair, strict=True)
    ]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_CONFIG_COUNT": str(len(quiet)), **dict(numbered)}
    done = subprocess.run(
        ["git", *words], capture_output=True, text=True, timeout=10, check=True, env=environment, input=input
    )
    return done.stdout


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the time that the block takes to `seconds[name]`."""
    began = time.perf_counter()
    yield
    seconds[name] += time.perf_counter() - began
