"""Labels counted: by task, split and class."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlmtl.check.finding import Finding, some
from tlmtl.data.examples import Examples
from tlmtl.data.labels import check_seen
from tlmtl.errors import ConfigError
from tlmtl.tasks.kinds import make_task

UNEQUAL = 5  # times as many examples in the largest class as in the smallest, from which on it is worth a word
RARE = 5  # examples of a class in training, below which it is worth a word

Splits = Mapping[str, np.ndarray]


@dataclass
class Labels:
    """One task's labels, counted.

    Arguments:
        chosen: whether a run would train the task (`tasks`).
        values: the labels themselves, as in `Examples.columns`.
        classes: names of classes or labels; None for a regression.
        counts: by split: examples of each class (K,); a multilabel example counts for each of its labels.
        missing: by split: examples without a label of this task.
        spread: by split, for a regression: number, least, mean, greatest, standard deviation.
    """

    name: str
    kind: str
    chosen: bool
    values: np.ndarray
    classes: list[str] | None
    counts: dict[str, np.ndarray] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    spread: dict[str, tuple[int, float, float, float, float]] = field(default_factory=dict)

    @property
    def imbalance(self) -> float | None:
        """How many times the smallest class of the training split fits into the largest; None where nothing is counted."""
        counts = self.counts.get("train", np.zeros(0))
        there = counts[counts > 0]
        return float(there.max() / there.min()) if len(there) > 1 else None


def count(name: str, kind: str, chosen: bool, values: np.ndarray, classes: list[str] | None, splits: Splits) -> Labels:
    """The labels of one task in every split."""
    found = Labels(name, kind, chosen, values, classes)
    for split, where in splits.items():
        mine = values[where]
        if classes is None:
            there = mine[np.isfinite(mine)]
            found.missing[split] = len(mine) - len(there)
            if len(there):
                found.spread[split] = (
                    len(there), float(there.min()), float(there.mean()), float(there.max()), float(there.std())
                )  # fmt: skip
        elif mine.ndim > 1:
            found.missing[split] = int(np.isnan(mine).all(1).sum())
            found.counts[split] = np.nansum(mine, 0).astype(np.int64)
        else:
            found.missing[split] = int((mine < 0).sum())
            found.counts[split] = np.bincount(mine[mine >= 0], minlength=len(classes))
    return found


def findings(found: Labels, settings: Any, examples: Examples, splits: Splits, kept: np.ndarray) -> list[Finding]:
    """What is to be said of a task, and what `tlmtl train` would refuse if the task is chosen.

    Arguments:
        settings: `dataset.tasks.<name>`.
        kept: the training examples that are kept.
    """
    said = []
    column = settings.target or found.name
    for refuses in (
        lambda: check_seen(examples, {**splits, "test": splits["test"][:0]}, column),
        lambda: check_seen(examples, {**splits, "val": splits["val"][:0]}, column),
        lambda: make_task(found.name, settings, found.values[kept], found.classes).encode(found.values),
    ):
        try:
            refuses()
        except ConfigError as error:
            said.append(Finding(str(error), refused=found.chosen))
    if lacking := {split: number for split, number in found.missing.items() if number and split != "kept"}:
        shown = ", ".join(f"{number:,} in {split}" for split, number in lacking.items())
        said.append(Finding(f"Task '{found.name}': {some(sum(lacking.values()), 'image')} without a label ({shown})."))
    if found.classes is not None and found.chosen and "train" in found.counts:
        said += _unequal(found)
    return said


def _unequal(found: Labels) -> list[Finding]:
    assert found.classes is not None
    said, counts = [], found.counts["train"]
    rare = [i for i in np.argsort(counts, kind="stable").tolist() if 0 < counts[i] < RARE]
    if rare:
        names = [f"{found.classes[i]}: {counts[i]}" for i in rare]
        text = f"Task '{found.name}': {some(len(rare), 'class')} with fewer than {RARE} training examples."
        said.append(Finding(text, names, "Figures for them will be noise: add examples, or leave them out."))
    if found.kind == "multilabel" and (none := np.flatnonzero(counts == 0)).size:
        names = [found.classes[i] for i in none]
        said.append(Finding(f"Task '{found.name}': {some(len(none), 'label')} without a training example.", names))
    ratio = found.imbalance
    if found.kind == "classification" and ratio and ratio >= UNEQUAL:
        text = f"Task '{found.name}': the largest class has {ratio:.3g} times the training examples of the smallest."
        advice = (
            "train.class_weights=balanced or train.sampler=balanced makes up for it; look at macro_f1, not accuracy."
        )
        said.append(Finding(text, advice=advice))
    return said
