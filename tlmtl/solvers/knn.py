"""`strategy=knn`: the labels of the nearest training examples."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from tlmtl.errors import ConfigError
from tlmtl.models.heads import NeighbourHead
from tlmtl.solvers.base import OF_STEPS, Problem, Solved, best_of, tried
from tlmtl.tasks.base import Task
from tlmtl.tasks.classification import Classification

AT_ONCE = 2**24  # cosines at once: 64 MB
USUAL = 20  # "is usually working the best" (DINO's eval_knn.py)
KINDS = ("classification", "multilabel", "regression")


class KNN:
    """Weighted k nearest neighbours on features of length 1 (`NeighbourHead`), the number of neighbours chosen by the loss on
    validation.

    The protocol is DINO's (Caron et al. 2021, section 4.1 and appendix E): cosine, weights exp(cosine / 0.07), k of 10, 20, 100
    and 200; 5 is added, for few labels. DINO chooses by accuracy on the test set.

    Arguments:
        neighbours: those that are tried, 1 or more; more than there are examples count as all.
        temperature: above 0.
        smoothing: above 0; so many neighbours more vote for everything alike.
    """

    ignores: ClassVar[tuple[str, ...]] = (*OF_STEPS, "head")

    def __init__(self, neighbours: list[int], temperature: float = 0.07, smoothing: float = 1.0) -> None:
        if not neighbours or any(k < 1 for k in neighbours):
            raise ConfigError(
                f"'strategy.solver.neighbours' should list numbers of 1 or more, such as [5,20]. Found {neighbours}."
            )
        for name, value in (("temperature", temperature), ("smoothing", smoothing)):
            if not 0 < value < float("inf"):
                raise ConfigError(f"'strategy.solver.{name}' should be a number above 0. Found {value}.")
        self.neighbours, self.temperature, self.smoothing = sorted(set(neighbours)), temperature, smoothing

    def check(self, tasks: Mapping[str, Task], run: Any) -> None:
        for name, task in tasks.items():
            if task.kind not in KINDS:
                raise ConfigError(
                    f"strategy=knn finds labels ({', '.join(KINDS)}). Found the task '{name}' ({task.kind}): leave it out of "
                    "tasks."
                )

    def count(self, total: int) -> int:
        return len(self.neighbours)

    def solve(self, problem: Problem) -> Solved:
        task, train, val = problem.task, problem.train, problem.val
        most = min(self.neighbours[-1], len(train))
        head = NeighbourHead(task, len(train), train.features.shape[1], most, self.temperature, self.smoothing)
        F.normalize(train.features, dim=1, out=head.examples)
        head.labels.copy_(train.targets.view(head.labels.shape))
        if isinstance(task, Classification) and task.class_weights is not None:
            head.class_weights.copy_(torch.tensor(task.class_weights))
        cosines, numbers = _nearest(head, val.features, most)
        found = []
        for k in dict.fromkeys(min(k, len(train)) for k in self.neighbours):
            found.append(tried(task, f"k={k}", head.said(cosines[:, :k], numbers[:, :k]), val))
            problem.tell(found[-1].metrics.get("loss", 0.0))
        tried_k = [int(one.name.removeprefix("k=")) for one in found]
        usual = next((i for i, k in enumerate(tried_k) if k >= USUAL), len(found) - 1)
        best = best_of(found, usual)
        head.k = tried_k[best]
        return Solved(head, found, best, steps=0, examples=len(train))


def _nearest(head: NeighbourHead, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `head.nearest`, so many at a time that the cosines take little memory."""
    step = max(1, AT_ONCE // len(head.examples))
    pairs = [head.nearest(part, k) for part in features.split(step)] if len(features) else []
    if not pairs:
        return torch.zeros(0, k), torch.zeros(0, k, dtype=torch.int64)
    cosines, numbers = zip(*pairs, strict=True)
    return torch.cat(cosines), torch.cat(numbers)
