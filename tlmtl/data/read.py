"""What a data set's node names, read once: examples, their splits and the hash of both. Nothing here needs torch."""

import hashlib
import json
import os
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from tlmtl.config import build
from tlmtl.data import duplicates, known
from tlmtl.data.examples import Examples
from tlmtl.data.labels import columns_of
from tlmtl.data.splits import divide_copies
from tlmtl.errors import ConfigError


def read(
    common: DictConfig, family: dict[str, Any], allow: list[str], cache: Path | None
) -> tuple[Examples, dict[str, np.ndarray], str]:
    """The examples of a data set, by split which of them are in it, and a hash of images, labels and splits.

    Arguments:
        common, family: the settings that all data sets have, and those of this family (`config.check_dataset`).
        cache: the folder where what was found out about files is kept.
    """
    shared = {**shared_settings(common), "fold": common.fold, "on_duplicate": common.on_duplicate}
    return _examples(json.dumps([plain(family), shared], sort_keys=True), tuple(allow), _stamp(family), cache)


def shared_settings(common: DictConfig) -> dict[str, Any]:
    """What every family is given of the common settings, if it asks for it."""
    kinds = {column: common.tasks[name].kind for name, column in columns_of(common).items()}
    return {**{key: common[key] for key in ("split_seed", "val_fraction", "test_fraction")}, "kinds": kinds}


def plain(node: Any) -> Any:
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else {k: plain_value(v) for k, v in node.items()}


def plain_value(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


@lru_cache(maxsize=4)  # the jobs of a sweep mostly share their data; the check before a sweep reads it once
def _examples(
    key: str, allow: tuple[str, ...], stamp: str, cache: Path | None
) -> tuple[Examples, dict[str, np.ndarray], str]:
    family, shared = json.loads(key)
    fold, on_duplicate = shared.pop("fold"), shared.pop("on_duplicate")
    try:
        examples: Examples = build(family, "dataset", allow=list(allow), cache=cache, **shared)
    except MemoryError as error:
        settings = ", ".join(f"dataset.{key}={value}" for key, value in family.items() if key != "_target_")
        raise ConfigError(f"The data set does not fit into memory as it is set ({settings}): {error}.") from error
    duplicates.check_setting(on_duplicate)
    fractions = shared["val_fraction"], shared["test_fraction"]
    splits = divide_copies(examples, *fractions, shared["split_seed"], fold, on_duplicate)
    facts = examples.images.facts
    found = duplicates.report(
        examples.hashes, facts.look if facts is not None else None, splits, examples.ids, on_duplicate
    )
    examples.notes += found
    columns = [examples.columns[name] for name in sorted(examples.columns)]
    names = json.dumps([examples.classes, sorted(examples.columns)], sort_keys=True).encode()
    return examples, splits, digest(examples.hashes, *columns, *splits.values(), np.frombuffer(names, dtype=np.uint8))


def _stamp(family: dict[str, Any]) -> str:
    """Names, sizes and times of the files at `root` and `path`, and of those that the family says it reads (`files_of`), so
    that what changed is read again."""
    files_of = getattr(sys.modules.get(str(family.get("_target_")).rpartition(".")[0]), "files_of", None)
    paths = files_of(**{k: v for k, v in family.items() if k != "_target_"}) if files_of else []
    for place in filter(None, (family.get("root"), family.get("path"))):
        top = os.path.expanduser(str(place))
        paths += [top, *known.below(top)]
    found = [(os.fsencode(path), *known.stamp(path)) for path in paths]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def digest(*arrays: np.ndarray) -> str:
    """A hash of shapes and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]
