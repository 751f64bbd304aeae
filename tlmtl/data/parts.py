"""The data sets of a run, each a stream of its own: the parts of a joint one (other images, other labels, other sizes), or
the one there is, called `target`."""

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from tlmtl.config import find_target, keywords
from tlmtl.data.dataset import Data, load, select_tasks
from tlmtl.data.joint import Joint, joint
from tlmtl.errors import ConfigError
from tlmtl.schema import RECONSTRUCTION

TARGET = "target"  # the stream of a run with one data set
FAMILY = ("_target_", "parts", "sampling", "temperature", "own_statistics")
OWN = (*FAMILY, "tasks", "default_tasks", "labels_per_class", "label_fraction")


def joint_of(node: DictConfig, allow: list[str]) -> Joint | None:
    """What a joint data set says of its parts together; None for a data set that is not joint."""
    if find_target(node, "dataset", "dataset", allow) is not joint:
        return None
    _, settings = keywords(OmegaConf.create({k: node[k] for k in FAMILY if k in node}), "dataset", "dataset", allow)
    return joint(**settings)


def streams_of(node: DictConfig, tasks: Any, allow: list[str], cache: Path | None) -> dict[str, Data]:
    """By stream: the parts of a joint data set that hold a chosen task, else the data set itself, called `target`.

    Images are read in colour where any part has colour. Raises ConfigError as `load` does, and where images that one part
    tests or chooses on are trained on in another.
    """
    if find_target(node, "dataset", "dataset", allow) is not joint:
        return {TARGET: load(node, tasks, allow, cache)}
    for key in map(str, node):
        if key not in OWN:
            raise ConfigError(
                f"'dataset.{key}' is a setting of a part: dataset.parts=[{{NAME: {{{key}: VALUE}}}}, ...]."
            )
    chosen = select_tasks(tasks, node.tasks, list(node.default_tasks))
    found = {}
    for part in map(str, node.parts):
        names = {f"{part}_{name}": name for name in map(str, node.parts[part].tasks) if f"{part}_{name}" in chosen}
        if names:
            found[part] = _part(part, node, names, len(chosen) == 1, allow, cache)
    channels = max(data.channels for data in found.values())
    for part, data in found.items():
        if data.channels != channels:
            images = data.examples.images.as_channels(channels)
            data.examples = copy.copy(data.examples)  # the hashes stay those of the originals
            data.examples.images = images
            data.examples.notes = [*data.examples.notes, f"grey images of '{part}' are repeated to three channels"]
    _check_apart(found)
    return found


def together(hashes: Iterable[str]) -> str:
    """The hash of one data set as it is, those of several as one."""
    found = list(hashes)
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()[:12]


def _part(
    part: str, node: DictConfig, names: Mapping[str, str], alone: bool, allow: list[str], cache: Path | None
) -> Data:
    """One part, its tasks under their joint names. A reconstruction is auxiliary, unless it is `alone` in the run."""
    own: DictConfig = node.parts[part].copy()
    own._set_parent(node.parts)  # where interpolations look
    OmegaConf.set_struct(own, False)
    for full, name in names.items():
        own.tasks[name] = OmegaConf.merge(own.tasks[name] or {}, node.tasks[full])
        if own.tasks[name].get("kind") == RECONSTRUCTION and own.tasks[name].get("primary") is None:
            own.tasks[name].primary = alone
    try:
        data = load(own, list(names.values()), allow, cache)
    except ConfigError as error:
        raise ConfigError(f"In 'dataset.parts.{part}' (keys under it): {error}") from error
    back = {name: full for full, name in names.items()}
    return replace(
        data,
        tasks={back[name]: replace(task, name=back[name]) for name, task in data.tasks.items()},  # type: ignore[type-var]
        targets={back[name]: target for name, target in data.targets.items()},
        mask={back[name]: mask for name, mask in data.mask.items()},
        columns={back[name]: column for name, column in data.columns.items()},
        part=part,
    )


def _check_apart(found: Mapping[str, Data]) -> None:
    for one, learnt in found.items():
        for other, data in found.items():
            if one == other or "allow" in (learnt.on_duplicate, data.on_duplicate):
                continue
            held = data.input_hashes("val", "test")
            copies = int(np.isin(held, learnt.input_hashes("train")).sum())
            if copies:
                raise ConfigError(
                    f"{copies} of the {len(held)} validation and test images of the part '{other}' are training images of "
                    f"'{one}', so its figures would flatter. Remove them, or say on_duplicate=allow for one of the parts."
                )
