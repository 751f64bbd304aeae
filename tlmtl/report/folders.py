"""Where the run of a row lies, and what lies there: curves, predictions, records. A CSV alone has none of them."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from tlmtl.compare import load


@dataclass(frozen=True)
class Run:
    """The folder of one run. What is missing or cannot be read is None or empty: a page is made of what there is."""

    path: Path

    @cached_property
    def record(self) -> dict[str, Any]:
        """`run.json`."""
        try:
            found = json.loads((self.path / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def history(self) -> pd.DataFrame | None:
        """`history.csv`: step, epoch, split, task, name, value; the last one that was written at a step counts."""
        try:
            found = pd.read_csv(self.path / "history.csv", dtype={"split": str, "task": str, "name": str})
            found = found.astype({"step": float, "epoch": float, "value": float})
        except (OSError, ValueError, KeyError):  # pandas' errors of parsing are ValueErrors
            return None
        return found.drop_duplicates(["step", "split", "task", "name"], keep="last")

    @cached_property
    def described(self) -> dict[str, Any]:
        """What the run's model file says of its tasks: names of classes among other things."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path / "model.safetensors", framework="np") as file:
                found = json.loads((file.metadata() or {}).get("tlmtl", "{}"))
        except (OSError, ValueError, SafetensorError):
            return {}
        return found if isinstance(found, dict) else {}

    def classes(self, task: str) -> list[str]:
        """The names of a task's classes or labels, [] when they are not known."""
        tasks = self.described.get("tasks")
        named = tasks.get(task, {}).get("classes") if isinstance(tasks, dict) else None
        return [str(name) for name in named] if isinstance(named, list) else []


@dataclass
class Folders:
    """The run folders beside the tables that were read, found by run_id."""

    own: dict[str, Path] = field(default_factory=dict)  # by the folder's name: folders of single runs
    sweeps: list[Path] = field(default_factory=list)
    known: dict[str, Run | None] = field(default_factory=dict)

    def of(self, run_id: str, config_hash: str) -> Run | None:
        """The folder of that run, None where it is gone or holds another run by now."""
        if run_id not in self.known:
            places = [self.own.get(run_id), self.own.get(config_hash), *(top / config_hash for top in self.sweeps)]
            runs = (Run(place) for place in places if place is not None)
            self.known[run_id] = next((run for run in runs if run.record.get("run_id") == run_id), None)
            if self.known[run_id] is None and len(self.own) <= MOVED:
                renamed = (run for run in map(Run, self.own.values()) if run.record.get("run_id") == run_id)
                self.known[run_id] = next(renamed, None)
        return self.known[run_id]

    def of_row(self, row: pd.Series) -> Run | None:
        return self.of(str(row["run_id"]), str(row["config_hash"]))


MOVED = 50  # folders up to which those that were given another name are looked into


def find(paths: list[str | Path]) -> Folders:
    """The folders beside the results that `compare` would read at `paths`."""
    found = Folders()
    for file in (file for path in paths for file in load.find(path)):
        top = file.absolute().parent
        if (top / "run.json").is_file():
            found.own[top.resolve().name] = top
        else:
            found.sweeps.append(top)
    return found
