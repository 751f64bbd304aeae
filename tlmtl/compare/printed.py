"""Numbers as people read them. Files for machines get full precision instead (`formats.py`)."""

import math

import pandas as pd

LOST = "↓"  # marks a gain whose whole interval lies below zero
WON = "↑"  # marks a difference whose whole interval is better than none


def settings(cells: pd.Series) -> pd.Series:
    """A setting or any other column as text: `5` for 5.0, `all` for no limit of labels, nothing for an empty cell."""
    empty = "all" if cells.name == "labels_per_class" else ""
    if pd.api.types.is_numeric_dtype(cells):
        return cells.map({value: number(value) for value in cells.dropna().unique()}).astype("str").fillna(empty)
    return cells.astype("str").fillna(empty)


def number(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else f"{value:.6g}"


def places(largest: float) -> int:
    """Decimals to print a metric with: 4 for fractions such as accuracies, else 4 digits in all."""
    if not math.isfinite(largest) or largest == 0 or 0.01 <= largest <= 1:
        return 4
    return min(max(3 - math.floor(math.log10(largest)), 0), 8)


def spread(mean: pd.Series, sd: pd.Series, metric: pd.Series) -> list[str]:
    """`0.9231 ± 0.0042`, or `0.9231` where `sd` is missing; aligned, with the same decimals for all of one metric."""
    digits = mean.abs().groupby(metric).max().map(places)
    decimals = [0 if pd.isna(name) else int(digits[name]) for name in metric]
    means = ["" if pd.isna(x) else f"{x:.{d}f}" for x, d in zip(mean, decimals, strict=True)]
    tails = ["" if pd.isna(x) else f" ± {x:.{d}f}" for x, d in zip(sd, decimals, strict=True)]
    left, right = max(map(len, means), default=0), max(map(len, tails), default=0)
    return [f"{m:>{left}}{t:<{right}}" for m, t in zip(means, tails, strict=True)]


def gains(mean: pd.Series, margin: pd.Series, lost: pd.Series | None = None) -> list[str]:
    """Percent, `+2.3 ± 1.1` or `-3.1 ± 1.2 ↓`, the arrow where `lost`; aligned, with one decimal, or two below 1 %."""
    decimals = 1 if mean.abs().max() >= 1 else 2
    means = ["" if pd.isna(x) else f"{x:+.{decimals}f}" for x in mean]
    tails = ["" if pd.isna(x) else f" ± {x:.{decimals}f}" for x in margin]
    if lost is not None:
        tails = [f"{tail} {LOST}" if flag else tail for tail, flag in zip(tails, lost, strict=True)]
    left, right = max(map(len, means), default=0), max(map(len, tails), default=0)
    return [f"{m:>{left}}{t:<{right}}" for m, t in zip(means, tails, strict=True)]


def cost(value: float) -> str:
    """`0.034`, `12.3`, `1,290`, `44.7k`, `11.2M`, or nothing."""
    if pd.isna(value):
        return ""
    for limit, unit, divisor in ((1e9, "G", 1e9), (1e6, "M", 1e6), (1e4, "k", 1e3)):
        if abs(value) >= limit:
            return f"{value / divisor:.1f}{unit}"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def differences(groups: pd.DataFrame, better: pd.Series) -> list[str]:
    """`+0.0123 ± 0.0045 ↑` with the decimals of the metric; `baseline` for the row that others are compared with.

    `better`: +1 or -1 where the interval is better or worse than 0.
    """
    digits = groups["test"].fillna(groups["val"]).abs().groupby(groups["metric"]).transform("max").map(places)
    arrows = better.map({1: f" {WON}", -1: f" {LOST}"}).fillna("")
    cells = zip(groups["difference"], groups["difference_half"], digits, arrows, groups["is_baseline"], strict=True)
    return [
        "baseline" if base else "" if pd.isna(mean) else f"{mean:+.{d}f}{_margin(half, d)}{arrow}"
        for mean, half, d, arrow, base in cells
    ]


def limits(groups: pd.DataFrame) -> list[str]:
    """`[-0.0071, +0.0192]`, with the decimals of the metric."""
    digits = groups["test"].fillna(groups["val"]).abs().groupby(groups["metric"]).transform("max").map(places)
    cells = zip(groups["boot_low"], groups["boot_high"], digits, strict=True)
    return ["" if pd.isna(low) else f"[{low:+.{d}f}, {high:+.{d}f}]" for low, high, d in cells]


def p(value: float) -> str:
    """`.031`, `.25`, `1`: two digits that count, without the 0 before the point; nothing where it is missing."""
    if pd.isna(value):
        return ""
    return "1" if value >= 0.995 else f"{value:.2g}".removeprefix("0")


def _margin(half: float, decimals: int) -> str:
    return "" if pd.isna(half) else f" ± {half:.{decimals}f}"
