"""What a family of data sets hands over: images, labels, and (where the data has them) its own splits and groups."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from tlmtl.data.images import Images

SPLITS = ("train", "val", "test")


@dataclass
class Examples:
    """A data set as its family found it.

    Arguments:
        images: N images.
        columns: labels by column: int64 class numbers (N,) (-1: missing), float64 values (N,) (NaN: missing), or float32
            (N, K) of 0 and 1 for K labels that may go together (a row of NaN: missing).
        classes: the names of the classes of each column that has classes, by class number.
        ids: N names that tell an example from the others (a path, a number).
        split: (N,) of "train", "val", "test" where the data has splits of its own; None to have them cut.
        groups: (N,) whatever may not stand on both sides of a split (a patient, a module); None where there are none.
        bad: name and reason of the examples that were left out because they could not be read.
        notes: what a reader of the log should know.
        no_labels: why there are no columns, a sentence for people; "" where there are some.
    """

    images: Images
    columns: dict[str, np.ndarray]
    classes: dict[str, list[str]]
    ids: list[str]
    split: np.ndarray | None = None
    groups: np.ndarray | None = None
    bad: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    no_labels: str = ""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def skipped(self) -> int:
        return len(self.bad)

    @property
    def anchor(self) -> str | None:
        """The first column of one class per example: what splits and labelled subsets are stratified by."""
        return next((name for name in self.classes if self.columns[name].ndim == 1), None)

    @cached_property
    def hashes(self) -> np.ndarray:
        """int64 (N,): a hash of every image's pixels."""
        return self.images.hashes()
