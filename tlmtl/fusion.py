"""How several heads become one prediction: fusion of classifications that have the same classes.

Whether two tasks mean the same is for the user to say (`fusion.tasks=[a,b]`): left and right digit have the same classes too.
Everything here is a pure function of what the heads said, so that it can be done again from `predictions.parquet`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tlmtl.errors import ConfigError, nearest
from tlmtl.evaluation import Predictions, measure
from tlmtl.tasks.base import Task
from tlmtl.tasks.classification import Classification

if TYPE_CHECKING:
    import pandas as pd

TASK = "fused:{}"  # what the row of a fused task is called

# log-probabilities (h, n, K) of h heads, and their shares of the say (h,), which sum to 1 -> log-probabilities (n, K)
Combine = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Fusion:
    """Which tasks' heads are fused, and how.

    Arguments:
        tasks: the classifications whose heads say the same of an example, two at least.
        combine: what makes one prediction of theirs.
        by_accuracy: a head's say is proportional to its accuracy on validation; else all have the same.
    """

    tasks: list[str]
    combine: Combine
    by_accuracy: bool = False


def no_fusion() -> None:
    """Every head speaks for itself."""


def average(tasks: list[str]) -> Fusion:
    """The mean of the heads' probabilities (the sum rule of Kittler et al. 1998, "On Combining Classifiers")."""
    return Fusion(tasks, mean_of)


def weighted(tasks: list[str]) -> Fusion:
    """The mean of the heads' probabilities, each weighted by the head's accuracy on validation (Kuncheva 2004, "Combining
    Pattern Classifiers", ch. 5).

    The weights are proportional to the share of right answers on the validation examples of the fused task itself, and
    equal where no head was ever right. The row's validation figures are those on which the weights were found; its test
    figures are not.
    """
    return Fusion(tasks, mean_of, by_accuracy=True)


def vote(tasks: list[str]) -> Fusion:
    """The class that most heads name; among those named equally often, the one of the largest mean probability
    (Kuncheva 2004, "Combining Pattern Classifiers", ch. 4; the tie-break is ours)."""
    return Fusion(tasks, vote_of)


def mean_of(logs: Tensor, shares: Tensor) -> Tensor:
    return (logs + shares.log()[:, None, None]).logsumexp(0)


def vote_of(logs: Tensor, shares: Tensor) -> Tensor:
    """(votes + mean probability) / (heads + 1): the votes decide, as a mean probability of 1 leaves no vote to the others.
    That sums to 1, but is no estimate of a probability: the loss of a vote can't be compared to that of a mean."""
    votes = torch.nn.functional.one_hot(logs.argmax(2), logs.shape[2]).sum(0)
    return torch.logaddexp(votes.log(), mean_of(logs, shares)) - torch.tensor(len(logs) + 1.0).log()


def check(fusion: Fusion | None, tasks: Mapping[str, Task]) -> None:
    """Raises ConfigError for unknown tasks, fewer than two, other kinds than classification, classes that differ."""
    if fusion is None:
        return
    where = "'fusion.tasks'"
    for name in fusion.tasks:
        if name not in tasks:
            raise ConfigError(
                f"{where} names the unknown task '{name}'.{nearest(str(name), list(tasks))} "
                f"This run has: {', '.join(tasks)}."
            )
        if not isinstance(tasks[name], Classification):
            raise ConfigError(f"{where} should name classifications. Found '{name}', a {tasks[name].kind}.")
    if len(set(fusion.tasks)) < 2 or len(set(fusion.tasks)) < len(fusion.tasks):
        raise ConfigError(
            f"{where} should name two different tasks or more, whose heads say the same of an example. Found "
            f"[{', '.join(fusion.tasks)}]. fusion=none leaves every head to itself."
        )
    first, *others = fusion.tasks
    classes = _classes(tasks, first)
    for name in others:
        if set(theirs := _classes(tasks, name)) != set(classes):
            stray = sorted(set(theirs) ^ set(classes))
            raise ConfigError(
                f"{where} should name tasks with the same classes. '{first}' has {len(classes)} and '{name}' {len(theirs)}; "
                f"only one of the two has: {', '.join(stray[:5])}{', ...' if len(stray) > 5 else ''}."
            )


def fused(outputs: Sequence[Tensor], combine: Combine, weights: Sequence[float] | None = None) -> Tensor:
    """One prediction from several.

    Arguments:
        outputs: of each head, its scores before softmax (or log-probabilities), (n, K); classes in one order.
        combine: `mean_of` or `vote_of`.
        weights: of each head, 0 or more; None, or all zero, for equal ones.

    Returns log-probabilities, float64 (n, K).
    """
    logs = torch.stack([torch.as_tensor(output).double().log_softmax(1) for output in outputs])
    said = torch.tensor(list(weights) if weights is not None and any(weights) else [1.0] * len(logs)).double()
    return combine(logs, said / said.sum())


def fused_metrics(
    fusion: Fusion | None, tasks: Mapping[str, Task], sets: Mapping[str, Predictions]
) -> dict[str, dict[str, dict[str, float]]]:
    """By fused task and split, the loss and metrics of the fused prediction, as that task measures them.

    Arguments:
        fusion: None for none.
        tasks: of the run, by name.
        sets: by split (`val`, from which weights are found, and others such as `test`), what was said about the examples
            of one data set: outputs of all fused tasks, and targets and mask of those that have labels there.

    A task without a label here is left out. Where validation has none that weights could be found from, so is every split.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in fusion.tasks if fusion is not None else []:
        assert fusion is not None
        weights = None
        if fusion.by_accuracy and (weights := accuracies(fusion, tasks, name, sets["val"])) is None:
            continue
        splits = {
            split: fuse(fusion, tasks, name, said, weights) for split, said in sets.items() if _labelled(name, said)
        }
        if splits:
            found[name] = {split: measure(tasks[name], said) for split, said in splits.items()}
    return found


def fuse(
    fusion: Fusion, tasks: Mapping[str, Task], name: str, said: Predictions, weights: Sequence[float] | None
) -> Predictions:
    """What the heads of `fusion` say together about the task `name`, its classes in the task's own order."""
    outputs = _outputs(fusion, tasks, name, said)
    return Predictions(
        {name: fused(outputs, fusion.combine, weights)}, {name: said.targets[name]}, {name: said.mask[name]}
    )


def accuracies(fusion: Fusion, tasks: Mapping[str, Task], name: str, said: Predictions) -> list[float] | None:
    """Of each head of `fusion`, the share of right answers about the task `name`; None without a label."""
    if not _labelled(name, said):
        return None
    there = said.mask[name]
    right = [output[there].argmax(1) == said.targets[name][there] for output in _outputs(fusion, tasks, name, said)]
    return [float(one.double().mean()) for one in right]


def stored(frame: "pd.DataFrame", tasks: Mapping[str, Task]) -> dict[str, Predictions]:
    """By split, what a run's `predictions.parquet` says of the classifications `tasks`: what `fused_metrics` takes.

    Arguments:
        frame: as stored: columns split, id, task, target (null where missing) and output. Of a joint data set it may hold
            all parts: the heads of a fusion were asked about the examples of each.
        tasks: those of the fusion; rows of others are passed over.

    Raises ValueError where the tasks of a split do not have the same ids in the same order. (An id alone is not enough: an
    example may be there twice.)
    """
    found: dict[str, Predictions] = {}
    for split, rows in frame.groupby("split", sort=False):
        said = found[str(split)] = Predictions({}, {}, {})
        ids: list[str] | None = None
        for name, mine in rows.groupby("task", sort=False):
            if isinstance(tasks.get(str(name)), Classification):
                if ids is not None and ids != list(mine["id"]):
                    raise ValueError(
                        f"The heads of the split {split} should speak of the same examples; '{name}' does not."
                    )
                ids = list(mine["id"])
                target = torch.tensor(mine["target"].to_numpy(np.float64))
                said.outputs[str(name)] = torch.from_numpy(np.stack(mine["output"].to_list()))
                said.targets[str(name)] = target.nan_to_num().long()
                said.mask[str(name)] = ~target.isnan()
    return found


def _labelled(name: str, said: Predictions) -> bool:
    return name in said.mask and bool(said.mask[name].any())


def _classes(tasks: Mapping[str, Task], name: str) -> list[str]:
    task = tasks[name]
    assert isinstance(task, Classification)
    return task.classes


def _outputs(fusion: Fusion, tasks: Mapping[str, Task], name: str, said: Predictions) -> list[Tensor]:
    """Of each head, its output (n, K), with the classes in the order of the task `name`."""
    wanted = _classes(tasks, name)
    place = {head: {c: i for i, c in enumerate(_classes(tasks, head))} for head in fusion.tasks}
    return [said.outputs[head][:, [place[head][c] for c in wanted]] for head in fusion.tasks]
