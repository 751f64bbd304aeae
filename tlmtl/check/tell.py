"""A survey as text: as wide as the terminal is; without one, lines as they are."""

from typing import TYPE_CHECKING, Any

import numpy as np

from tlmtl.check import pictures
from tlmtl.check.finding import Finding, some
from tlmtl.check.labels import Labels
from tlmtl.check.survey import Survey

if TYPE_CHECKING:
    from rich.console import Console

FIRST = 10  # names that are shown of each finding
ROWS = 20  # classes that are shown of each task
TASKS = 8  # tasks that are shown with a table
WIDE = 100  # columns, at most: prose is hard to read in longer lines


def console() -> "Console":
    from rich.console import Console

    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=10_000)  # nobody wants a pipe's lines broken


def show(found: Survey, cfg: Any, out: "Console", everything: bool = False) -> None:
    """Prints what was found.

    Arguments:
        everything: name all, not the first few of each kind.
    """
    _head(found, cfg, out)
    order = sorted(found.tasks, key=lambda labels: not labels.chosen)
    for labels in order if everything else order[:TASKS]:
        _labels(labels, found, out, everything)
    if more := [] if everything else order[TASKS:]:
        _line(out, f"{some(len(more), 'further task')}: {', '.join(labels.name for labels in more)} (--all).", 0, "dim")
        out.print()
    _images(found, cfg, out)
    notes = [finding for finding in found.findings if not finding.refused]
    if notes:
        _line(out, "Worth knowing", 0, "bold")
        for finding in notes:
            _finding(finding, "-", out, everything)
        out.print()
    if found.refused:
        reasons = some(len(found.refused), "reason")
        _line(out, f"`tlmtl train` would refuse this data set, for {reasons}", 0, "bold red")
        for number, finding in enumerate(found.refused, 1):
            _finding(finding, f"{number}.", out, everything)
    else:
        _line(out, "There is nothing here that `tlmtl train` would refuse.", 0, "bold green")


def _head(found: Survey, cfg: Any, out: "Console") -> None:
    place = cfg.dataset.get("path") or cfg.dataset.get("root")
    name = str(cfg.composed.choices.get("dataset", "dataset"))
    _line(out, f"{name}: {some(len(found.examples), 'image')}{f' of {place}' if place else ''}", 0, "bold")
    counts = ", ".join(f"{len(where):,} {split}" for split, where in found.splits.items() if len(where))
    _line(
        out,
        f"splits  {counts if found.divided else 'could not be made, see below'} {_cut(found, cfg)}".rstrip(),
        2,
        hang=8,
    )
    train = len(found.splits["train"])
    if len(found.kept) < train:
        per = cfg.dataset.labels_per_class
        key = f"labels_per_class={per}" if per is not None else f"label_fraction={cfg.dataset.label_fraction}"
        _line(out, f"kept    {len(found.kept):,} of {train:,} training images (dataset.{key})", 2, hang=8)
    if (groups := found.examples.groups) is not None:
        _line(out, f"groups  {len(np.unique(groups)):,} (dataset.group_column)", 2)
    for note in found.examples.notes:
        if not note.startswith(tuple(f"Task {labels.name}:" for labels in found.tasks)):  # the tables say it
            _line(out, note, 2)
    out.print()


def _cut(found: Survey, cfg: Any) -> str:
    if not found.divided:
        return ""
    if cfg.dataset.fold:
        return f"(fold {cfg.dataset.fold})"
    split = found.examples.split
    own = sorted(set(split.tolist())) if split is not None else []
    if not own or own == ["train"]:
        return f"(cut with dataset.split_seed={cfg.dataset.split_seed})"
    missing = [name for name in found.splits if name not in own]
    return f"(the data's own{'; ' + ' and '.join(missing) + ' cut from train' if missing else ''})"


def _labels(labels: Labels, found: Survey, out: "Console", everything: bool) -> None:
    many = (
        f", {some(len(labels.classes), 'label' if labels.kind == 'multilabel' else 'class')}" if labels.classes else ""
    )
    aside = "" if labels.chosen else " (not among this run's tasks)"
    ratio = labels.imbalance
    unequal = f", largest {ratio:.3g} times the smallest" if ratio and ratio > 1.05 else ""
    _line(out, f"{labels.name}: {labels.kind}{many}{unequal}{aside}", 0, "bold")
    splits = [split for split in labels.missing if split == "kept" or len(found.splits[split])]
    titles = [split if found.divided else "all" for split in splits]
    if labels.classes is None:
        head, rows = ["value", *titles], _statistics(labels, splits)
    else:
        head = ["label" if labels.kind == "multilabel" else "class", *titles]
        rows = _rows(labels, splits, everything)
    if any(labels.missing.values()):
        rows.append(
            [f"(no {head[0] if labels.classes is None else 'label'})", *(f"{labels.missing[s]:,}" for s in splits)]
        )
    _table(head, rows, out)
    out.print()


def _statistics(labels: Labels, splits: list[str]) -> list[list[str]]:
    """A row for each figure of a regression; a split without values has none."""
    there = [labels.spread.get(split) for split in splits]
    rows = [["number", *("0" if figures is None else f"{figures[0]:,}" for figures in there)]]
    for at, name in enumerate(("min", "mean", "max", "std"), 1):
        rows.append([name, *("" if figures is None else f"{figures[at]:.4g}" for figures in there)])
    return rows


def _rows(labels: Labels, splits: list[str], everything: bool) -> list[list[str]]:
    """A row for each class. Of many, the largest and the smallest."""
    assert labels.classes is not None
    every = [[name, *(f"{labels.counts[s][i]:,}" for s in splits)] for i, name in enumerate(labels.classes)]
    if everything or len(every) <= ROWS:
        return every
    counts = labels.counts["train"]
    order = np.argsort(-counts, kind="stable").tolist()
    half = ROWS // 2
    between = [int(counts[i]) for i in order[half:-half]]
    gap = [f"... {len(between):,} more (--all)", f"{min(between):,} to {max(between):,}"]
    return [*(every[i] for i in order[:half]), gap, *(every[i] for i in order[-half:])]


def _images(found: Survey, cfg: Any, out: "Console") -> None:
    sizes = pictures.sizes(found.examples)
    _line(out, "Images", 0, "bold")
    shown = ", ".join(f"{width}x{height} ({count:,})" for (width, height), count in sizes.most_common(3))
    if len(sizes) > 3:
        widths, heights = zip(*sizes, strict=True)
        shown += f" and {some(len(sizes) - 3, 'other size')}; {min(widths)} to {max(widths)} wide, "
        shown += f"{min(heights)} to {max(heights)} high"
    _line(out, f"sizes   {shown}", 2, hang=8)
    kinds = pictures.kinds(found.examples)
    _line(out, f"kinds   {', '.join(f'{kind} ({count:,})' for kind, count in kinds.most_common())}", 2, hang=8)
    channels = "grey" if found.examples.images.channels == 1 else "colour"
    model = cfg.composed.choices.get("model", "the model")
    taken = pictures.as_taken(found.preprocess, found.examples)
    _line(out, f"read    as {channels}; {model} takes {taken}", 2, hang=8)
    out.print()


def _finding(finding: Finding, mark: str, out: "Console", everything: bool) -> None:
    _line(out, f"{mark} {finding.text}", 0, hang=len(mark) + 1)
    names = finding.names if everything else finding.names[:FIRST]
    for name in names:
        _line(out, name, len(mark) + 3, "cyan")
    if len(finding.names) > len(names):
        _line(out, f"and {len(finding.names) - len(names):,} more (--all names them)", len(mark) + 3, "dim")
    if finding.advice:
        _line(out, finding.advice, len(mark) + 1)


def _line(out: "Console", text: str, indent: int = 0, style: str = "", hang: int = 0) -> None:
    """One paragraph: wrapped on a terminal, its further lines indented by `hang` more."""
    from rich.text import Text

    width = min(out.width, WIDE) - indent - hang if out.is_terminal else 10_000
    lines = Text(text).wrap(out, max(width, 20))
    for number, line in enumerate(lines):
        line.rstrip()
        out.print(" " * (indent + (hang if number else 0)) + line.plain, style=style, markup=False, soft_wrap=True)


def _table(head: list[str], rows: list[list[str]], out: "Console") -> None:
    from rich import box
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD if out.is_terminal else None, padding=(0, 2, 0, 0), show_edge=False, pad_edge=False,
        header_style="dim",
    )  # fmt: skip
    for number, title in enumerate(head):
        table.add_column(title, justify="right" if number else "left", overflow="fold", no_wrap=number > 0, min_width=5)
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(Padding(table, (0, 0, 0, 2), expand=False))
