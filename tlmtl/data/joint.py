"""`dataset=joint`: several data sets in one run, one encoder. Task `t` of part `p` is called `p_t`. How the parts take turns
is in `sampling.py`, how they become streams in `parts.py`."""

from dataclasses import dataclass
from typing import Any

from tlmtl.data.sampling import Sampling
from tlmtl.errors import ConfigError


@dataclass(frozen=True)
class Joint:
    """How the parts of a joint data set take turns, and whether each has batch norm statistics of its own."""

    sampling: Sampling
    own_statistics: bool


def joint(parts: dict, sampling: str = "proportional", temperature: float = 2.0, own_statistics: bool = True) -> Joint:
    """How the parts take turns. The parts themselves are data sets of their own (`parts.streams_of`).

    Arguments:
        parts: by name, the config of a data set. On the command line and in YAML a list: names of data sets, or
            `{NAME: {from: DATASET, KEY: VALUE, ...}}` for settings of their own; `fill.parts` makes the mapping of it.
        sampling, temperature: see `Sampling`.
        own_statistics: each part has running means and variances of its own in every batch norm (see `Statistics`); else
            one average over all parts is kept, as where nobody thinks of it.
    """
    return Joint(Sampling(sampling, temperature), own_statistics)


def tasks_of(stated: dict[str, Any], *, parts: dict, **_: Any) -> dict[str, Any]:
    """The tasks of all parts, called `PART_TASK`; `stated` says settings of theirs otherwise.

    Raises ConfigError for a stated task that no part has, and for two tasks that get one name.
    """
    found: dict[str, Any] = {}
    for part, node in parts.items():
        for name, task in node.get("tasks", {}).items():
            full = f"{part}_{name}"
            if full in found:
                raise ConfigError(
                    f"Two parts of the joint data set have a task that is called '{full}' here. Give one of the parts "
                    "another name: dataset.parts=[{NAME: {from: DATASET}}, ...]."
                )
            own = {} if task is None else dict(task)
            found[full] = {**own, "target": own.get("target") or name, **_given(stated.get(full))}
    for name in stated:
        if name not in found:
            raise ConfigError(f"'dataset.tasks.{name}' is a task of no part. The parts have: {', '.join(found)}.")
    return found


def _given(task: Any) -> dict[str, Any]:
    return {key: value for key, value in dict(task or {}).items() if value is not None}
