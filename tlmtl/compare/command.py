"""The command line of `tlmtl compare`: flags to calls. No figure is computed here."""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tlmtl.compare.groups import Summary

FORMATS = ["table", "csv", "md", "json", "latex"]
EPILOG = """examples:
  tlmtl compare outputs/sweeps/latest
  tlmtl compare outputs/runs --filter 'labels_per_class <= 10' --sort=-val --top 5
  tlmtl compare outputs/sweeps/latest --over lr weight_decay
  tlmtl compare outputs/sweeps/latest --plot figure.svg --format latex --out table.tex
  tlmtl compare outputs/sweeps/latest --filter 'weighting ~ a' --sort=-delta_m
  tlmtl compare outputs/sweeps/front outputs/sweeps/front_learned --front --plot front.png
  tlmtl compare outputs/sweeps/latest --baseline strategy=linear_probe
  tlmtl compare outputs/sweeps/latest --fail-if 'test < 0.9'
  tlmtl compare theirs.csv --rename acc=test/accuracy --rename run=seed --rename method=strategy

Runs that differ in their seed alone are repeats: n of them, mean ± standard deviation. Settings that all rows agree
in stand above the table. To pick among settings use --over: it picks by validation, and shows the test figure of what
it picked. Runs of several tasks on one model have delta, the relative change of a task's test figure to the measured
single-task run of the same seed (sharing=none, or that task alone) in percent, positive is better, and delta_m, its mean
over the primary tasks; ↓ marks a loss that is sure. They are made before --filter, so that it hides no baseline.
--baseline is looked for in the table as it is, after --filter and --over; docs/comparing.md explains its columns.
Exit codes: 0 done, 1 no finished run or a --fail-if that holds, 2 a wrong command."""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="tlmtl compare",
        description="Results of runs and sweeps, side by side.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("paths", nargs="*", metavar="PATH",
        help="a results.csv, the folder of a run or a sweep, or one that holds such folders")  # fmt: skip
    add("--metric", metavar="NAME", help="compare by this metric, such as accuracy (default: each task's first)")
    add("--filter", action="append", default=[], metavar="'KEY OP VALUE'",
        help="keep runs for which this holds; OP is == != < <= > >= ~ (contains) or in; may be repeated")  # fmt: skip
    add("--sort", metavar="KEY", help="sort by a column, by test or val; -KEY for descending")
    add("--top", type=_positive, metavar="N",
        help="the first N rows of each task; without --sort those that are best on validation")  # fmt: skip
    add("--columns", type=_names, metavar="A,B", help="show these columns, in this order")
    add("--rename", action="append", default=[], type=_pair, metavar="theirs=ours",
        help="rename a column of the files before anything else; may be given again")  # fmt: skip
    add("--over", action="extend", nargs="+", type=_names, default=[], metavar="KEY",
        help="of rows that differ in these settings alone, show the one that is best on validation")  # fmt: skip
    add("--repeats", action="extend", nargs="+", type=_names, default=[], metavar="KEY",
        help="rows that differ in these settings alone are repeats, as those of several seeds are (dataset.fold)")  # fmt: skip
    add("--baseline", action="append", default=[], type=_setting, metavar="KEY=VALUE",
        help="compare each row with this one, seed by seed, and say how sure it is; may be repeated")  # fmt: skip
    add("--fail-if", action="append", default=[], metavar="'KEY OP VALUE'",
        help="end with exit code 1 if this holds for a row of the table; may be repeated")  # fmt: skip
    add("--front", action="store_true",
        help="which weightings lie beyond the front of static sums of the task losses, and which do not")  # fmt: skip
    add("--plot", type=Path, metavar="FILE", help="draw a figure, too: .png, .svg or .pdf")
    add("--format", choices=FORMATS, help="default: by the suffix of --out, else table")
    add("--out", type=Path, metavar="FILE", help="write the table to a file instead of printing it")
    return made


def main(argv: list[str]) -> int:
    """Runs `tlmtl compare`. Returns 0, or 1 when no run in PATH has finished; raises ConfigError for bad input."""
    made = parser()
    options = made.parse_intermixed_args(_joined(argv))
    over = [name for names in options.over for name in names]
    repeats = [name for names in options.repeats for name in names]
    if not options.paths:
        made.error(
            "expected a PATH, such as outputs/sweeps/latest"
            + ("; give it before --over or --repeats" if over or repeats else "")
        )
    if options.front and (flags := _without_front(options)):
        made.error(f"--front has a table of its own: expected none of --over, --repeats, --baseline, --fail-if, --sort, "
                   f"--top and --columns, found {', '.join(flags)}")  # fmt: skip
    from tlmtl.compare import choice, costs, filters, formats, gate, load, plot, table

    conditions = [filters.parse(text) for text in options.filter]
    stops = [filters.parse(text, gate.FLAG) for text in options.fail_if]
    if options.plot:
        plot.check(options.plot)
    rows, told = load.read_noted(options.paths, dict(options.rename))
    kept, notes = filters.apply(rows, conditions)
    notes += told
    summary = table.summarise(rows, options.metric, over, repeats, kept.index, options.baseline)
    if options.front:
        return _front(summary, notes, options)
    groups = summary.groups
    if options.sort:
        groups = choice.sort(groups, options.sort, summary.known())
    if options.top:
        groups, more = choice.top(groups, options.top, options.sort)
        notes += more
    if options.columns and "pareto" not in options.columns:
        summary = replace(summary, notes=costs.unmarked(summary.notes))
    summary = replace(summary, groups=groups, notes=[*summary.notes, *notes])
    failed = gate.check(summary, stops)
    if options.plot and not groups.empty:
        summary.notes.extend(plot.draw(summary, options.plot))
    _emit(
        lambda name: formats.render(summary, name, options.columns),
        lambda: table.draw(summary, chosen=options.columns),
        summary.notes,
        options,
    )
    for line in failed:
        print(line, file=sys.stderr)
    return 1 if failed or groups.empty else 0


def _front(summary: "Summary", notes: list[str], options: argparse.Namespace) -> int:
    from tlmtl.compare import front, front_plot, front_table

    found = front.find(summary)
    found.notes.extend(notes)
    if options.plot:
        found.notes.extend(front_plot.draw(found, options.plot))
    _emit(lambda name: front_table.render(found, name), lambda: front_table.draw(found), found.notes, options)
    return 0


def _without_front(options: argparse.Namespace) -> list[str]:
    return [
        f"--{name.replace('_', '-')}"
        for name in ("over", "repeats", "baseline", "fail_if", "sort", "top", "columns")
        if getattr(options, name)
    ]


def _emit(
    render: Callable[[str], str], draw: Callable[[], None], notes: list[str], options: argparse.Namespace
) -> None:
    """The table to a file or to stdout; notes that the format has no place for to stderr."""
    from tlmtl.compare import formats, output

    path: Path | None = options.out
    name = options.format or formats.SUFFIXES.get(path.suffix if path else "", "table")
    if path:
        output.write(path, render(name).encode())
        print(f"Written to {path}.", file=sys.stderr)
    else:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a console that can't show ± shows ?
        try:
            if name == "table":
                draw()
            else:
                sys.stdout.write(render(name))
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    for note in notes if name != "table" else []:
        print(note, file=sys.stderr)


def _joined(argv: list[str]) -> list[str]:
    """`--sort -val` as `--sort=-val`, which argparse would take for a flag."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--sort" and word.startswith("-") and not word.startswith("--"):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of rows, 1 or more, found '{text}'")
    return int(text)


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("expected one name or more, with commas between")
    return names


def _setting(text: str) -> tuple[str, str]:
    key, equals, value = (part.strip() for part in text.partition("="))
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, such as strategy=linear_probe, found '{text}'")
    return key, value


def _pair(text: str) -> tuple[str, str]:
    theirs, equals, ours = (part.strip() for part in text.partition("="))
    if not (theirs and equals and ours):
        raise argparse.ArgumentTypeError(f"expected theirs=ours, found '{text}'")
    return theirs, ours
