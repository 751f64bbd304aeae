"""The weights of a static sum, as its row states them: in `overrides`, as a list, by task, or at the tasks themselves."""

import json
from typing import Any

import pandas as pd

KEY = "weighting.weights"


def label(point: pd.Series) -> str:
    """`0.25, 0.75` for a static sum, equal weights for `weighting=sum`; nothing for other weightings."""
    return ", ".join(f"{weight:g}" for weight in given(point)) if point["weighting"] in ("sum", "static") else ""


def shares(point: pd.Series) -> list[float]:
    """The weights, by task in the run's order, divided by their sum."""
    weights = given(point)
    total = sum(weights) or 1.0
    return [weight / total for weight in weights]


def given(point: pd.Series) -> list[float]:
    """A weight for each task of the run, 1 where nothing is stated (as by `sum`).

    Arguments:
        point: the settings of a run, one entry for each key of its `overrides`.
    """
    tasks = str(point["tasks"]).split("+")
    listed = point.get(KEY)
    if isinstance(listed, str) and listed.startswith("["):
        try:
            weights = [float(weight) for weight in json.loads(listed)]
        except (ValueError, TypeError):
            weights = []
        if len(weights) == len(tasks):
            return weights
    return [_stated(point, task) for task in tasks]


def is_weight(name: str) -> bool:
    """Whether a key of `overrides` says the weight of a task."""
    return name.startswith(KEY) or (name.startswith("dataset.tasks.") and name.endswith(".weight"))


def _stated(point: pd.Series, task: str) -> float:
    for key in (f"{KEY}.{task}", f"dataset.tasks.{task}.weight"):
        value: Any = point.get(key)
        try:
            if pd.notna(value):
                return float(value)
        except ValueError:
            continue
    return 1.0
