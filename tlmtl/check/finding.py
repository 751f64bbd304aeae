"""One thing that a check found."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Finding:
    """Something that a person should know of a data set.

    Arguments:
        text: what was found, in a sentence.
        names: which images, files or classes, as they are to be shown.
        advice: what to do about it.
        refused: whether `tlmtl train` would refuse it.
    """

    text: str
    names: Sequence[str] = field(default_factory=list)
    advice: str = ""
    refused: bool = False


def some(count: int, what: str) -> str:
    """`1 image`, `1,234 images`."""
    plural = what[:-1] + "ies" if what.endswith("y") else what + ("es" if what.endswith(("s", "x")) else "s")
    return f"{count:,} {what if count == 1 else plural}"
