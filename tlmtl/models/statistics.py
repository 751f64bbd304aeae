"""Batch norm for several data sets in one model: shared weights, running statistics of each data set's own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


class Statistics(nn.Module):
    """Running means and variances of every batch norm of `model`, once for each part of a joint data set.

    A batch comes from one part, and is normalised by its own mean and variance in training. One running average over all
    parts fits none of them in evaluation. So each part keeps its own (Li et al. 2016, "Revisiting Batch Normalization For
    Practical Domain Adaptation"); weights and biases stay shared, unlike in Chang et al. 2019 ("Domain-Specific Batch
    Normalization"). Outside of `of` the first part's are in place.

    Arguments:
        model: its batch norms are found by their running mean.
        parts: names, at least one.
    """

    def __init__(self, model: nn.Module, parts: Sequence[str]) -> None:
        super().__init__()
        norms = {n: m for n, m in model.named_modules() if getattr(m, "running_mean", None) is not None}
        self._norms = {
            name.replace(".", "/"): norm for name, norm in norms.items()
        }  # in a dict, so not registered again
        for part in parts:
            kept = nn.Module()
            for where, norm in self._norms.items():
                for name, tensor in norm.named_buffers(recurse=False):
                    kept.register_buffer(f"{where}/{name}", tensor.clone())
            self._modules[part] = kept  # add_module refuses names of its own methods (`type`)
        self._first = parts[0]
        self._use(self._first)

    @contextmanager
    def of(self, part: str) -> Iterator[None]:
        """The running statistics of `part` are read and updated while `with` lasts."""
        self._use(part)
        try:
            yield
        finally:
            self._use(self._first)

    def _use(self, part: str) -> None:
        kept = self._modules[part]
        assert kept is not None
        for where, norm in self._norms.items():
            for name in norm._buffers:
                norm._buffers[name] = kept._buffers[f"{where}/{name}"]
