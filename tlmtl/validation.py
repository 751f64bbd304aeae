"""What follows from a model's predictions on validation: history, the best model, early stopping."""

import math
import time
from collections.abc import Mapping

from torch import nn

from tlmtl.evaluation import Predictions, measure, selection_score
from tlmtl.training import Setup, State, Watch


def validated(
    setup: Setup,
    state: State,
    watch: Watch,
    rate: float,
    model: nn.Module,
    said: Mapping[str, Predictions],
    began: float,
) -> None:
    """Write down what `model` said on validation at `state.step`, keep it where it is the best, and stop what has not got
    better for `patience` steps.

    Arguments:
        rate: the learning rate of the step before.
        said: by task that still trains, the predictions on its data set's validation split.
        began: when its evaluation began, by `time.perf_counter`.
    """
    tasks = {name: setup.tasks[name] for name in said}
    metrics = {name: measure(task, said[name]) for name, task in tasks.items()}
    scores = {name: selection_score(task, said[name], metrics[name]) for name, task in tasks.items()}
    rows = [("train", task, name, s / n) for name, sums in state.sums.items() for task, (s, n) in sums.items()]
    rows += [("val", task, name, value) for task, values in metrics.items() for name, value in values.items()]
    rows.append(("train", "", "lr", rate))
    reached = {}
    for branch in [branch for branch in setup.branches.tasks if branch not in state.stopped]:
        score = reached[branch] = setup.branches.score(branch, tasks, scores)
        rows.append(("val", branch, "score", score))
        if score > state.best_score.get(branch, -math.inf):
            state.best_score[branch], state.best_step[branch] = score, state.step
            setup.branches.keep(state.best_model, branch, model.state_dict())
        elif setup.patience is not None and state.step - state.best_step.get(branch, 0) >= setup.patience:
            state.stopped.append(branch)
    state.history += [[state.step, state.step / setup.steps_per_epoch, *row] for row in rows]
    state.sums = {}
    for term in setup.terms.values():
        term.after_validation(metrics)
    state.seconds["eval"] += time.perf_counter() - began
    watch.evaluated(state, metrics, reached)
