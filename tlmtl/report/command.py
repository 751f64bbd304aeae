"""The command line of `tlmtl report`: flags to calls."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tlmtl.errors import ConfigError, TlmtlError

if TYPE_CHECKING:
    from pandas import DataFrame

    from tlmtl.compare.groups import Summary
    from tlmtl.report.folders import Folders
    from tlmtl.report.sections import Section
    from tlmtl.report.style import Chart
    from tlmtl.report.view import Panel


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="tlmtl report", add_help=False, allow_abbrev=False)
    add = made.add_argument
    add("paths", nargs="*", metavar="PATH")
    add("--out", type=Path, default=Path("report.html"), metavar="FILE")
    add("--figures", type=Path, metavar="DIR")
    add("--metric", metavar="NAME")
    add("--filter", action="append", default=[], metavar="'KEY OP VALUE'")
    add("--baseline", action="append", default=[], metavar="KEY=VALUE")
    add("--rename", action="append", default=[], metavar="theirs=ours")
    add("--title", metavar="TEXT")
    add("--no-images", action="store_true")
    add("--allow", action="append", default=[], metavar="PACKAGE")
    return made


def main(argv: list[str]) -> int:
    """Runs `tlmtl report`. Returns 0. Raises TlmtlError where no run has finished, ConfigError for bad input; nothing is
    written then."""
    made = parser()
    options = made.parse_intermixed_args(argv)
    if not options.paths:
        made.error("expected a PATH, such as outputs/sweeps/latest")
    _check(options.out, options.figures)
    from tlmtl import files
    from tlmtl.compare import filters, load
    from tlmtl.compare.table import summarise
    from tlmtl.report import folders, view

    rows = load.read(options.paths, dict(_pair(text, "--rename", "theirs=ours") for text in options.rename))
    kept, notes = filters.apply(rows, [filters.parse(text) for text in options.filter])
    baseline = [_pair(text, "--baseline", "KEY=VALUE, such as strategy=linear_probe") for text in options.baseline]
    summary = summarise(rows, options.metric, only=kept.index, baseline=baseline)
    panels = view.panels(summary)
    if not panels:
        reasons = " ".join(summary.notes[:3])
        raise TlmtlError(
            f"No finished run with a metric in {', '.join(map(str, options.paths))}: nothing to show. {reasons}"
        )
    if options.allow and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # where a user's own package lies
    text, sections = _page(summary, panels, kept, folders.find(options.paths), notes, options)
    with files.disk_errors():
        files.write_text(options.out, text)
        if options.figures:
            count = _figures(sections, files.make_folder(options.figures, "--figures"))
    print(f"Written to {options.out} ({_size(len(text.encode()))}); any browser shows it.", file=sys.stderr)
    if options.figures:
        print(f"{count} figures written to {options.figures}, each as PNG and SVG.", file=sys.stderr)
    return 0


def _page(
    summary: "Summary",
    panels: "list[Panel]",
    rows: "DataFrame",
    places: "Folders",
    notes: list[str],
    options: argparse.Namespace,
) -> "tuple[str, list[Section]]":
    from tlmtl.progress import counted
    from tlmtl.report import page, records, sections, story

    with counted(sections.runs_to_read(panels), "Reading runs") as tell:
        found = sections.of(panels, places, options.allow, not options.no_images, tell)
    lost, how_many = records.unfinished(rows, summary.rows)
    lines = records.machine([sections.best_run(panel) for panel in panels], places)
    more = {"runs": "Commands and versions"}
    title = options.title or _title(panels)
    with counted(len(_charts(found)), "Drawing") as tell:
        text = page.render(
            tell,
            title=title,
            opening=story.opening(summary, panels, rows),
            verdicts=story.verdicts(panels),
            table=page.table(summary, panels),
            by_labels=any(panel.by_labels for panel in panels),
            sections=found,
            contents=page.contents(found, more),
            notes=[*summary.notes, *notes],
            lost=lost,
            lost_count=how_many,
            commands=records.commands(panels),
            versions=[*records.versions(summary.rows), *lines],
        )
    return text, found


def _title(panels: "list[Panel]") -> str:
    from tlmtl.report import story

    data = list(dict.fromkeys(panel.dataset for panel in panels if panel.dataset and not panel.further))
    return f"Results on {story.listed(data[:3])}" if data else "Results"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.0f} kB"


def _figures(sections: "list[Section]", folder: Path) -> int:
    """All pictures to files. Returns how many."""
    from tlmtl.progress import counted

    sheets = [errors.sheet for one in sections for errors in one.errors if errors.sheet]
    charts = [*_charts(sections), *sheets]
    with counted(len(charts), "Writing figures") as tell:
        for chart in charts:
            chart.save(folder)
            tell()
    return len(charts)


def _charts(sections: "list[Section]") -> "list[Chart]":
    """The pictures that stand on the page, images aside."""
    own = [chart for one in sections for chart in one.charts]
    return own + [chart for one in sections for errors in one.errors for chart in errors.charts]


def _check(out: Path, figures: Path | None) -> None:
    """Raises ConfigError for what cannot be written, before anything is read."""
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"--out should be a file in a folder that is there. Found {out}. Make its folder first.")
    if figures is not None and figures.exists() and not figures.is_dir():
        raise ConfigError(f"--figures should be a folder, made if need be. Found a file: {figures}.")


def _pair(text: str, flag: str, form: str) -> tuple[str, str]:
    left, equals, right = (part.strip() for part in text.partition("="))
    if not (left and equals):
        raise ConfigError(f"{flag} should be {form}. Found '{text}'.")
    return left, right
