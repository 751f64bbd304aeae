"""What `sweep.*` asks for: how often a run is tried, how long it may take, how much memory it may use, what is run again."""

import re
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from tlmtl.errors import ConfigError, nearest

FUSE = ("auto", "never")
RERUN = ("failed", "all", "none")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Limits:
    """The settings of `cfg.sweep`, checked."""

    rerun: str = "failed"
    retries: int = 0
    seconds: float | None = None
    megabytes: int | None = None
    dry_run: bool = False
    fuse: str = "auto"


def limits_of(cfg: DictConfig) -> Limits:
    """Raises ConfigError, naming the key, for a value of `cfg.sweep` that cannot be meant."""
    given = cfg.sweep
    rerun = str(given.rerun).lower()
    if rerun not in RERUN:
        raise ConfigError(
            f"'sweep.rerun' should be one of {', '.join(RERUN)}. Found '{given.rerun}'.{nearest(rerun, list(RERUN))}"
        )
    if not isinstance(given.dry_run, bool):
        raise ConfigError(f"'sweep.dry_run' should be true or false. Found '{given.dry_run}'.")
    if str(given.fuse) not in FUSE:
        raise ConfigError(
            f"'sweep.fuse' should be one of {', '.join(FUSE)}. Found '{given.fuse}'.{nearest(str(given.fuse), list(FUSE))}"
        )
    return Limits(
        rerun,
        _whole("retries", given.retries, least=0) or 0,
        seconds_of(given.time_limit),
        _whole("memory_limit_mb", given.memory_limit_mb, least=1),
        given.dry_run,
        str(given.fuse),
    )


def seconds_of(value: Any) -> float | None:
    """`90s`, `30m`, `2h`, `1h30m` or `1.5d` in seconds; None for null. Raises ConfigError for anything else."""
    if value is None:
        return None
    text = str(value).replace(" ", "").lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not 0 < seconds < float("inf"):
        raise ConfigError(f"'sweep.time_limit' should be a time such as 90s, 30m, 2h or 1h30m. Found '{value}'.")
    return seconds


def _whole(key: str, value: Any, least: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"'sweep.{key}' should be a whole number, {least} or more. Found '{value}'.")
    return value
