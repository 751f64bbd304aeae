"""What a run does in place of `fit` when its strategy names a solver."""

import dataclasses
import logging
import math
import time
from typing import Any

import torch
from torch import Tensor

from tlmtl.activations import Activations
from tlmtl.data.streams import Stream
from tlmtl.errors import ConfigError, TrainingError
from tlmtl.solvers.base import Labelled, Problem, Solved, Solver, Tried
from tlmtl.tasks.base import Task
from tlmtl.training import Setup, State, Watch

log = logging.getLogger("tlmtl")


def solve(solver: Solver, setup: Setup, state: State, watch: Watch) -> None:
    """Find the heads of all tasks, each by itself: what `fit` does, without its steps. `state` is that of a run's start.

    Afterwards the model's heads are those that were found.
    """
    began = time.perf_counter()
    total = solver.count(setup.total) * len(setup.tasks)
    done, metrics, scores, best_steps = 0, {}, {}, {}

    def tell(loss: float, steps: int = 1) -> None:
        nonlocal done
        done += steps
        watch.stepped(dataclasses.replace(state, step=done), {"loss": loss})

    for name, stream in setup.streams.items():
        train, val = _features(stream), _features(setup.validation[name])
        for task in (setup.tasks[one] for one in stream.mask):
            splits = _labelled(stream, train, task.name), _labelled(setup.validation[name], val, task.name)
            if not len(splits[0]):
                raise TrainingError(
                    f"No training example has a label of the task '{task.name}': there is no head to find."
                )
            found = solver.solve(Problem(task, *splits, setup.model.heads[task.name], tell, setup, name))
            chosen = found.tried[found.best]
            setup.model.heads[task.name] = found.head.to(setup.device)
            metrics[task.name], scores[task.name] = chosen.metrics, chosen.score
            state.chosen[task.name], best_steps[task.name] = chosen.name, chosen.step
            state.step += found.steps
            state.examples += found.examples
            state.labels[task.name] = found.examples
            state.history += _rows(task, found)
            log.info("%s", _line(task, found, chosen))
    for branch, names in setup.branches.tasks.items():
        score = setup.branches.score(branch, setup.tasks, scores)
        if score > -math.inf:
            state.best_score[branch], state.best_step[branch] = (
                score,
                best_steps[names[0]] if len(names) == 1 else state.step,
            )
    state.seconds["train"] += time.perf_counter() - began
    watch.evaluated(dataclasses.replace(state, step=total), metrics, state.best_score)


def _features(stream: Stream) -> Tensor:
    """All features of a stream, (n, D)."""
    if not len(stream):
        return torch.zeros(0, 0)
    input = stream.input(torch.arange(len(stream)))
    if not isinstance(input, Activations) or input.rest is not None:
        raise ConfigError("Heads are found on features of the whole backbone, which this run has not.")
    return input.values.float()


def _labelled(stream: Stream, features: Tensor, task: str) -> Labelled:
    if stream.complete[task]:
        return Labelled(features, stream.targets[task])
    there = stream.mask[task]
    return Labelled(features[there], stream.targets[task][there])


def _rows(task: Task, found: Solved) -> list[list[Any]]:
    """Rows of the history. A setting's figures are called `loss[k=20]`, so that none is taken for one of the run."""
    if found.history:
        return found.history
    rows: list[list[Any]] = []
    for one in found.tried:
        values = {**one.metrics, "score": one.score}
        rows += [[one.step, 0.0, "val", task.name, f"{n}[{one.name}]", v] for n, v in values.items()]
    return rows


def _line(task: Task, found: Solved, chosen: Tried) -> str:
    """What was chosen, and what would have been by accuracy."""
    if not chosen.metrics:
        return f"{task.name}: {chosen.name}; no validation example has its label to choose by"
    line = f"{task.name}: {chosen.name} has the best loss on validation of {len(found.tried)} settings"
    rates = [one.metrics.get("accuracy", math.nan) for one in found.tried]
    if max(rates) > chosen.metrics.get("accuracy", math.inf):
        other = found.tried[rates.index(max(rates))]
        own = chosen.metrics["accuracy"]
        line += f" (the best accuracy there, {max(rates):.4f}, has {other.name}; {chosen.name} has {own:.4f})"
    return line
