"""What a family of data sets hands over: images, labels, and (where the data has them) its own splits."""

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
        columns: labels (N,) by column: int64 class numbers (-1: missing) or float64 values (NaN: missing).
        classes: the names of the classes of each integer column, by class number.
        ids: N names that tell an example from the others (a path, a number).
        split: (N,) of "train", "val", "test" where the data has splits of its own; None to have them cut.
        skipped: how many examples were left out because they could not be read.
    """

    images: Images
    columns: dict[str, np.ndarray]
    classes: dict[str, list[str]]
    ids: list[str]
    split: np.ndarray | None = None
    skipped: int = 0
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def hashes(self) -> np.ndarray:
        """int64 (N,): a hash of every image's pixels."""
        return self.images.hashes()
