"""Which columns a table for people has, and their cells as text: the same for terminal, Markdown and LaTeX."""

from dataclasses import dataclass

import pandas as pd

from tlmtl import columns
from tlmtl.compare import baseline, costs, delta, keys, metrics, printed, transfer
from tlmtl.compare.groups import Summary

COSTS = ["train_seconds", "seconds_per_step", "peak_memory_mb", "parameters_trained"]  # dropped from the right

OF = {"boot": "boot_low"}  # what a column of two figures is sorted by


@dataclass(frozen=True)
class Column:
    name: str  # what `--columns` and `--sort` call it
    title: str
    cells: list[str]
    kind: str  # setting | number | cost


def names(summary: Summary) -> list[str]:
    """The columns shown by default: what differs, how often it ran, how well it did, what sharing gained, what it cost."""
    varying = summary.varying()
    scores = ["n", "test", "val"] if summary.same_metric() else ["metric", "n", "test", "val"]
    rest = [
        name
        for name in [*scores, "difference", "p", "p_holm", "boot", *delta.COLUMNS, *COSTS]
        if (column := OF.get(name, name)) in summary.groups and summary.groups[column].notna().any()
    ]
    if "pareto" in summary.groups and summary.groups["pareto"].any():
        rest.insert(next((at for at, name in enumerate(rest) if name in COSTS), len(rest)), "pareto")
    return [*varying, *rest]


def table(summary: Summary, chosen: list[str] | None = None) -> list[Column]:
    """The columns to show: `chosen`, or those of `names`. Raises ConfigError for a column that isn't there."""
    known = summary.known()
    shown = [keys.resolve(name, known, "--columns") for name in chosen] if chosen else names(summary)
    return [_column(summary, name) for name in shown]


def constants_line(summary: Summary, shown: list[Column]) -> str:
    """`model small_cnn · dataset digits · ...`: the settings that all groups agree in, but those `shown`."""
    names = [column.name for column in shown]
    first = {name: printed.settings(summary.groups[name]).iloc[0] for name in summary.constants() if name not in names}
    if first.get("tasks") == first.get("task"):
        first.pop("tasks", None)
    return " · ".join(f"{name} {value}" for name, value in first.items())


def _column(summary: Summary, name: str) -> Column:
    groups = summary.groups
    if name in ("test", "val") or keys.is_metric(name):
        of_task = name in ("test", "val")
        title = f"{name}/{groups['metric'].iloc[0]}" if of_task and summary.same_metric() and len(groups) else name
        metric = groups["metric"] if of_task else pd.Series(name, index=groups.index)
        return Column(name, title, printed.spread(groups[name], groups[f"{name}_sd"], metric), "number")
    if name == "delta":
        cells = printed.gains(groups["delta"], groups["delta_half"], transfer.negative(groups))
        return Column(name, "delta % (± 95 % t-interval)", cells, "number")
    if name == "delta_m":
        return Column(name, "delta_m % (± sd)", printed.gains(groups["delta_m"], groups["delta_m_sd"]), "number")
    if name == "difference":
        better = baseline.better(groups, groups["metric"].map(metrics.sign))
        return Column(name, "difference (± 95 % t-interval)", printed.differences(groups, better), "number")
    if name == "p":
        pairs = zip(groups["p"], groups["p_least"], strict=True)
        return Column(
            name, "p (least)", [f"{printed.p(p)} ({printed.p(least)})" * (p == p) for p, least in pairs], "number"
        )
    if name == "p_holm":
        return Column(name, "p Holm", [printed.p(value) for value in groups[name]], "number")
    if name == "boot":
        return Column(name, "test set (95 % bootstrap)", printed.limits(groups), "number")
    if name == "pareto":
        return Column(name, name, costs.cells(groups), "cost")
    if name in columns.COSTS:
        return Column(name, name, [printed.cost(value) for value in groups[name]], "cost")
    return Column(
        name, name, list(printed.settings(groups[name])), "number" if name in ("n", "delta_n", "pairs") else "setting"
    )
