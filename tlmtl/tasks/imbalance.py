"""What can be done about classes of unequal size: weights in the loss (`train.class_weights`), and which training examples
are drawn how often (`train.sampler`). Labels here are those of the training split: by task, targets (n,) and which are
there (n,)."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from tlmtl.errors import ConfigError, nearest
from tlmtl.tasks.base import Task
from tlmtl.tasks.classification import Classification

CLASS_WEIGHTS = ("balanced", "effective")
SAMPLERS = ("shuffle", "balanced")
BETA = 0.999  # of the effective number of examples

Labels = Mapping[str, tuple[Tensor, Tensor]]


def with_class_weights(tasks: Mapping[str, Task], labels: Labels, how: str | None) -> dict[str, Task]:
    """The tasks, each classification with weights for its classes in the loss (see `class_weights`).

    Raises ConfigError for an unknown `how`, and where no task has classes to weigh.
    """
    if how is None:
        return dict(tasks)
    if how not in CLASS_WEIGHTS:
        raise ConfigError(
            f"'train.class_weights' should be {', '.join(CLASS_WEIGHTS)} or null for none. Found '{how}'."
            f"{nearest(how, list(CLASS_WEIGHTS))}"
        )
    if not any(isinstance(task, Classification) for task in tasks.values()):
        raise _without_classes(f"train.class_weights={how}", tasks)
    return {
        name: replace(task, class_weights=class_weights(_counts(task, *labels[name]), how).tolist())
        if isinstance(task, Classification)
        else task
        for name, task in tasks.items()
    }


def class_weights(counts: Tensor, how: str) -> Tensor:
    """Weights of K classes, float64 (K,), from their numbers of training examples (K,). Their mean over the training
    examples is 1, so that a learning rate means what it means without weights.

    balanced: 1 / n_k, as scikit-learn's `compute_class_weight`. effective: (1 - beta) / (1 - beta^n_k), the inverse of the
    effective number of examples (Cui et al. 2019, equation 2), with beta = 0.999; they choose beta for each data set, and
    let the weights sum to K. A class without a training example is weighed like one with a single example.
    """
    n = counts.double().clamp(min=1)
    weights = 1 / n if how == "balanced" else (1 - BETA) / (1 - BETA**n)
    return weights * counts.sum() / (counts * weights).sum()


def draw_weights(tasks: Mapping[str, Task], labels: Labels, how: str) -> Tensor | None:
    """How likely each training example is drawn, float64 (n,) with sum 1; None for `shuffle`, each once an epoch.

    balanced: every class of the first classification is equally likely; examples without its label keep the share that
    they have of the data. Raises ConfigError for an unknown `how`, and without a classification.
    """
    if how not in SAMPLERS:
        raise ConfigError(
            f"'train.sampler' should be {' or '.join(SAMPLERS)}. Found '{how}'.{nearest(how, list(SAMPLERS))}"
        )
    if how == "shuffle":
        return None
    task = next((task for task in tasks.values() if isinstance(task, Classification)), None)
    if task is None:
        raise _without_classes(f"train.sampler={how}", tasks)
    target, there = labels[task.name]
    counts = _counts(task, target, there)
    share = there.double().mean() / (counts > 0).sum()  # of each class that has examples
    return torch.where(there, share / counts.clamp(min=1)[target], 1 / len(target))


def _counts(task: Task, target: Tensor, there: Tensor) -> Tensor:
    return torch.bincount(target[there], minlength=task.outputs)


def _without_classes(setting: str, tasks: Mapping[str, Task]) -> ConfigError:
    found = ", ".join(f"{name} ({task.kind})" for name, task in tasks.items())
    return ConfigError(f"'{setting}' needs a classification among the tasks. Found {found}.")
