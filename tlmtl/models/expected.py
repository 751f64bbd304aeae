"""What parameters expect of an image, where a config says otherwise than the model: `source.preprocess`."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from tlmtl.errors import ConfigError, nearest
from tlmtl.preprocess import Preprocess


def changed(own: Preprocess, changes: Mapping[str, Any], where: str = "source.preprocess") -> Preprocess:
    """`own` with what a config says otherwise; the side of the images stays the model's.

    Arguments:
        changes: any of `mean`, `std` (a number per channel or one for all, for values in [0, 1]), `interpolation`, and
            `crop_pct` (side of the centre crop / shorter side of the picture it is cut from, above 0 and up to 1).
        where: the config key of `changes`, for messages.

    Raises ConfigError for any other key or value.
    """
    known = ["mean", "std", "interpolation", "crop_pct"]
    for key in changes:
        if key not in known:
            raise ConfigError(f"Unknown key '{where}.{key}'.{nearest(str(key), known)} Known: {', '.join(known)}.")
    values: dict[str, Any] = {}
    for key in ("mean", "std"):
        if key in changes:
            values[key] = _per_channel(changes[key], len(own.mean), f"{where}.{key}")
    if min(values.get("std", [1])) <= 0:
        raise ConfigError(f"'{where}.std' should be above 0. Found {changes['std']}.")
    if "interpolation" in changes:
        values["interpolation"] = changes["interpolation"]
        if changes["interpolation"] not in ("bilinear", "bicubic"):
            raise ConfigError(
                f"'{where}.interpolation' should be bilinear or bicubic. Found {changes['interpolation']}."
            )
    if "crop_pct" in changes:
        share = changes["crop_pct"]
        if not _is_number(share) or not 0 < share <= 1:
            raise ConfigError(f"'{where}.crop_pct' should be above 0 and up to 1. Found {share}.")
        side = own.crop or own.resize
        values |= {"resize": max(side, int(side / share)), "crop": side}
    return dataclasses.replace(own, **values)


def _per_channel(value: Any, channels: int, where: str) -> tuple[float, ...]:
    numbers = list(value) if isinstance(value, list | tuple) else [value]
    if len(numbers) not in (1, channels) or not all(_is_number(number) for number in numbers):
        raise ConfigError(f"'{where}' should be one number or {channels}, one per channel. Found {value}.")
    return tuple(float(number) for number in (numbers if len(numbers) == channels else numbers * channels))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
