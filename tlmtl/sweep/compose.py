"""The configs of a sweep's jobs. Hydra takes a tenth of a second for one, and most jobs of a sweep differ in a few numbers."""

import pickle
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tlmtl.config import check_seed
from tlmtl.data.dataset import finds_tasks

# Keys whose numbers change nothing else in a config, with the types that they may have. `overrides` shows none of them.
NUMBERS: dict[str, tuple[type, ...]] = {
    "seed": (int,),
    "optimizer.lr": (int, float),
    "optimizer.weight_decay": (int, float),
    "train.epochs": (int, float),
    "dataset.labels_per_class": (int,),
}


class Composer:
    """Composes one job after another; one that differs from another in numbers alone is made from that one's config.

    Arguments:
        whole: composes a job from its overrides, by Hydra.
    """

    def __init__(self, whole: Callable[[list[str], int], DictConfig]) -> None:
        self.whole = whole
        self.known: dict[Hashable, bytes] = {}  # pickled: a copy of a config takes five times as long

    def __call__(self, overrides: list[str], number: int) -> DictConfig:
        numbers, rest = _numbers(overrides)
        key = (rest, frozenset(numbers))
        if numbers and key in self.known:
            made = pickle.loads(self.known[key])
            try:
                for name, value in numbers.items():
                    OmegaConf.update(made, name, value)
                check_seed(made.seed, "seed")
            except OmegaConfBaseException:
                return self.whole(overrides, number)
            return made
        made = self.whole(overrides, number)
        if numbers and all(_as_written(made, where) for where in ("dataset", "source.dataset")):
            self.known[key] = pickle.dumps(made)
        return made


def _as_written(cfg: DictConfig, where: str) -> bool:
    """Whether a data set's config is what its presets and overrides say, and nothing was filled in that a number could be in
    (`fill.py`)."""
    node = OmegaConf.select(cfg, where)
    return node is None or not (node.get("parts") or finds_tasks(node, where, list(cfg.allow)))


def _numbers(overrides: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The numbers that are set, by key, and all other overrides. A key that is set twice, or within another one, is none."""
    keys = [item.split("=")[0] for item in overrides]
    found, rest = {}, []
    for key, item in zip(keys, overrides, strict=True):
        value = _number(item) if key in NUMBERS else None
        if value is None or keys.count(key) > 1 or any(key.startswith(f"{one}.") for one in keys):
            rest.append(item)
        else:
            found[key] = value
    return found, tuple(rest)


@lru_cache(maxsize=4096)
def _number(override: str) -> Any:
    """The number that an override sets, None where it is something else."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (parsed,) = OverridesParser.create().parse_overrides([override])
    value, key = parsed.value(), override.split("=")[0]
    return value if type(value) in NUMBERS[key] and value == value else None
