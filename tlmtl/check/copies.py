"""The same picture more than once, and groups on both sides of a split."""

from collections.abc import Mapping

import numpy as np

from tlmtl.check.finding import Finding, some
from tlmtl.check.labels import Labels
from tlmtl.data import duplicates
from tlmtl.data.examples import SPLITS, Examples

Splits = Mapping[str, np.ndarray]
SIDES = {"learnt": "training or validation", "train": "training", "val": "validation", "test": "test"}


def findings(examples: Examples, splits: Splits, labels: list[Labels], on_duplicate: str) -> list[Finding]:
    """Exact and near copies across splits, exact ones within a split, copies with different labels.

    Arguments:
        labels: those of the tasks; the first classification's are compared.
        on_duplicate: as in the config: whether copies in train (or val) and test would be refused.
    """
    facts = examples.images.facts
    sides = {"learnt": np.concatenate([splits["train"], splits["val"]]), **splits}
    said = []
    for one, other in (("learnt", "test"), ("train", "val")):
        if pairs := duplicates.exact(examples.hashes, sides, one, other):
            text = _have(pairs, splits, one, other, "an exact copy")
            refused = other == "test" and on_duplicate != "allow"
            said.append(Finding(text, _named(pairs, examples.ids), _advice(examples, refused), refused))
    for one, other in (("learnt", "test"), ("train", "val")):
        if facts is not None and (pairs := duplicates.near(facts.look, examples.hashes, sides, one, other)):
            text = _have(pairs, splits, one, other, "a near copy (not pixel by pixel)")
            advice = "Look at them: what was cut out of one picture, or taken twice, should stand on one side."
            said.append(Finding(text, _named(pairs, examples.ids, "~"), advice))
    return said + _within(examples, splits) + _disagreeing(examples, labels)


def torn(groups: np.ndarray, own: Splits) -> Finding | None:
    """Groups that the data's own splits tear apart, if there are any. `tlmtl train` refuses them."""
    names = []
    for i, one in enumerate(SPLITS):
        for other in SPLITS[i + 1 :]:
            both = set(groups[own[one]].tolist()) & set(groups[own[other]].tolist())
            names += [f"{group} (in {one} and {other})" for group in sorted(map(str, both))]
    advice = "Mend the split column, or have the splits cut (dataset.split=null)."
    text = f"{some(len(names), 'group')} (dataset.group_column) on two sides of a split."
    return Finding(text, names, advice, refused=True) if names else None


def _have(pairs: list[tuple[int, int]], splits: Splits, one: str, other: str, what: str) -> str:
    count = len({j for _, j in pairs})
    images = some(len(splits[other]), f"{SIDES[other]} image")
    return f"{count:,} of {images} {'has' if count == 1 else 'have'} {what} among the {SIDES[one]} images."


def _named(pairs: list[tuple[int, int]], ids: list[str], sign: str = "=") -> list[str]:
    return [f"{ids[j]} {sign} {ids[i]}" for i, j in pairs]


def _advice(examples: Examples, refused: bool) -> str:
    if not refused:
        return "" if examples.split is not None else "dataset.on_duplicate=together keeps copies on one side."
    together = "" if examples.split is not None else ", or keep copies on one side with dataset.on_duplicate=together"
    return f"Remove them from one side{together}, or say dataset.on_duplicate=allow: test figures would then flatter."


def _within(examples: Examples, splits: Splits) -> list[Finding]:
    """Copies that stand in one split: they count twice, but mislead nobody."""
    names = []
    several = sum(len(where) > 0 for where in splits.values()) > 1
    for split in SPLITS:
        for where in _alike(examples.hashes, splits[split]):
            shown = " = ".join(examples.ids[i] for i in where[:4]) + " = ..." * (len(where) > 4)
            names.append(shown + f" ({split})" * several)
    text = f"{some(len(names), 'image')} more than once {'in a split' if several else 'in the data'} (exact copies)."
    return [Finding(text, names)] if names else []


def _disagreeing(examples: Examples, labels: list[Labels]) -> list[Finding]:
    """Copies that do not have the same class."""
    first = next((found for found in labels if found.kind == "classification" and found.classes), None)
    if first is None or first.classes is None or first.values.ndim > 1:
        return []
    names = []
    for where in _alike(examples.hashes, np.flatnonzero(first.values >= 0)):
        if len(np.unique(first.values[where])) > 1:
            names.append(" = ".join(f"{examples.ids[i]} ({first.classes[first.values[i]]})" for i in where[:4]))
    text = f"{some(len(names), 'image')} with copies of another class (task '{first.name}')."
    return [Finding(text, names, "One of the labels is wrong.")] if names else []


def _alike(hashes: np.ndarray, where: np.ndarray) -> list[list[int]]:
    """The positions in `where` that share a hash, in groups of two and more."""
    order = where[np.argsort(hashes[where], kind="stable")]
    ends = np.flatnonzero(np.diff(hashes[order])) + 1
    return sorted(part.tolist() for part in np.split(order, ends) if len(part) > 1)
