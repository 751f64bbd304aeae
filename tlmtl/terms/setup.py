"""What terms find out once, in their `setup`: which tasks they are for, and what the model gives for one image."""

from collections.abc import Mapping
from typing import Any

import torch

from tlmtl.errors import ConfigError, nearest
from tlmtl.models.encoder import Output, evaluating
from tlmtl.tasks.base import Task
from tlmtl.terms.base import Context


def chosen_tasks(term: str, wanted: Any, tasks: Mapping[str, Task], offered: list[str], what: str) -> list[str]:
    """The names of the tasks a term is for, in the order of `tasks`.

    Arguments:
        term: its name, for messages.
        wanted: its argument `tasks`: None for all that are offered, a name or a list of names.
        tasks: those of the run.
        offered: those that the term can work with, described by `what`.

    Raises ConfigError for an unknown task, one that is not offered, and where none is left.
    """
    names = offered if wanted is None else [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in tasks:
            raise ConfigError(
                f"'tasks' of {term} names the unknown task '{name}'.{nearest(str(name), list(tasks))} "
                f"This run has: {', '.join(tasks)}."
            )
        if name not in offered:
            raise ConfigError(f"'tasks' of {term} should name {what}. Found '{name}', a {tasks[name].kind}.")
    if not names:
        found = ", ".join(f"{name} ({task.kind})" for name, task in tasks.items())
        raise ConfigError(
            f"The term {term} needs {what}. Found {found or 'none'}: choose tasks that have one, or no {term}."
        )
    return [name for name in tasks if name in names]


@torch.no_grad()
def blank_output(context: Context, layers: tuple[str, ...] = ()) -> Output:
    """What the model gives for one blank square image, in eval mode: it tells sizes, and who has an encoder of its own."""
    like = next(context.model.parameters())
    with evaluating(context.model):
        return context.model(context.encoder.blank().to(like), list(context.tasks), layers)
