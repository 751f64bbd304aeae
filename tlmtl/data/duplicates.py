"""The same picture twice: exact copies (a hash of the pixels) and pictures that look alike (a perceptual hash)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tlmtl.data.examples import Examples
from tlmtl.errors import ConfigError, nearest

SETTINGS = ("error", "together", "allow")  # of dataset.on_duplicate

# Bits of 64 in which the perceptual hashes of near duplicates may differ. Half of the bits are set, so it is 2, 4, ...
ALIKE = 2
PAIRS = 1_000_000_000  # comparisons that are worth a run's start (a second or two); `tlmtl check` makes all
Splits = Mapping[str, np.ndarray]


def exact(hashes: np.ndarray, splits: Splits, one: str, other: str) -> list[tuple[int, int]]:
    """Pairs (i in `one`, j in `other`) of equal pixels; for each j the first i.

    Arguments:
        hashes: int64 (N,).
        splits: positions in `hashes`, by split.
    """
    first: dict[int, int] = {}
    for i in splits[one]:
        first.setdefault(int(hashes[i]), int(i))
    return [(first[int(hashes[j])], int(j)) for j in splits[other] if int(hashes[j]) in first]


def near(looks: np.ndarray, hashes: np.ndarray, splits: Splits, one: str, other: str) -> list[tuple[int, int]]:
    """Pairs (i, j) across two splits that look alike but are not equal: for each j the nearest i.

    Arguments:
        looks: uint64 (N,), perceptual hashes.
    """
    ours, pairs = looks[splits[one]], []
    if not len(ours):
        return []
    for chunk in np.array_split(splits[other], max(1, len(splits[other]) * len(ours) // 20_000_000)):
        distance = np.bitwise_count(looks[chunk][:, None] ^ ours[None])
        nearest = distance.argmin(1)
        for row in np.flatnonzero(distance[np.arange(len(chunk)), nearest] <= ALIKE):
            i, j = int(splits[one][nearest[row]]), int(chunk[row])
            if hashes[i] != hashes[j]:
                pairs.append((i, j))
    return pairs


def check_setting(on_duplicate: str) -> None:
    """Raises ConfigError for a `dataset.on_duplicate` that there is not."""
    if on_duplicate not in SETTINGS:
        raise ConfigError(
            f"'dataset.on_duplicate' should be {', '.join(SETTINGS)}. Found '{on_duplicate}'."
            f"{nearest(on_duplicate, list(SETTINGS))}"
        )


def report(
    hashes: np.ndarray, looks: np.ndarray | None, splits: Splits, ids: Sequence[str], on_duplicate: str
) -> list[str]:
    """Notes on what stands on two sides of a split.

    Raises ConfigError for exact copies in train (or val) and test, unless `on_duplicate` is "allow".
    """
    notes = []
    learnt = {"learnt": np.concatenate([splits["train"], splits["val"]]), **splits}
    if pairs := exact(hashes, learnt, "learnt", "test"):
        text = (
            f"{len(pairs)} of the {len(splits['test'])} test images are exact copies of training or validation images"
        )
        if on_duplicate != "allow":
            raise ConfigError(
                f"{text}:\n{_named(pairs, ids)}\nThe test figures would flatter every method. Remove them, or keep copies "
                "on one side with dataset.on_duplicate=together (where the splits are cut for you), or say "
                "dataset.on_duplicate=allow."
            )
        notes.append(f"{text} (dataset.on_duplicate=allow), such as {_named(pairs[:1], ids).strip()}.")
    if pairs := exact(hashes, splits, "train", "val"):
        notes.append(
            f"{len(pairs)} of the {len(splits['val'])} validation images are exact copies of training images, such as "
            f"{_named(pairs[:1], ids).strip()}."
        )
    cheap = len(learnt["learnt"]) * len(splits["test"]) <= PAIRS
    if looks is not None and cheap and (pairs := near(looks, hashes, learnt, "learnt", "test")):
        notes.append(
            f"{len(pairs)} of the {len(splits['test'])} test images look much like a training or validation image, such as "
            f"{_named(pairs[:1], ids).strip()}: `tlmtl check` shows them."
        )
    return notes


def with_copies(examples: Examples, cut: Callable[[Examples], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The splits that `cut` makes of one of each set of copies, with the copies on the side of their first."""
    _, first, same = np.unique(examples.hashes, return_index=True, return_inverse=True)
    columns = {name: column[first] for name, column in examples.columns.items()}
    unique = dataclasses.replace(examples, columns=columns, ids=[examples.ids[i] for i in first])
    return {name: np.flatnonzero(np.isin(same, where)) for name, where in cut(unique).items()}


def together(hashes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Groups (N,) that also hold every image's exact copies."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _, same = np.unique(hashes, return_inverse=True)
    _, mine = np.unique(groups, return_inverse=True)
    links = coo_array((np.ones(len(same)), (same, mine + same.max() + 1)), shape=(same.max() + mine.max() + 2,) * 2)
    return connected_components(links, directed=False)[1][same]


def _named(pairs: Sequence[tuple[int, int]], ids: Sequence[str]) -> str:
    lines = [f"  {ids[j]} (as {ids[i]})" for i, j in pairs[:5]]
    return "\n".join(lines + ([f"  and {len(pairs) - 5} more"] if len(pairs) > 5 else []))
