"""Modules by task, whatever the tasks are called."""

from collections.abc import Iterator, Mapping

from torch import nn


def part_of(task: str) -> str:
    """What stands for a task in names of parameters, where a dot would end it."""
    return task.replace("%", "%25").replace(".", "%2E")


class ByTask(nn.Module):
    """Modules by task, in order. Unlike `nn.ModuleDict` it takes any name: a column of a table may be called `type`."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.tasks = list(modules)
        self._modules.update({part_of(task): module for task, module in modules.items()})

    def __getitem__(self, task: str) -> nn.Module:
        found = self._modules[part_of(task)]
        assert found is not None
        return found

    def __setitem__(self, task: str, module: nn.Module) -> None:
        """Put another module in the place of that of a task."""
        assert task in self.tasks
        self._modules[part_of(task)] = module

    def __iter__(self) -> Iterator[str]:
        return iter(self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)
