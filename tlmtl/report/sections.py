"""The sections of the page: which charts and lists there are, and why one is missing."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from tlmtl.compare import predictions
from tlmtl.report import chart_errors, chart_lines, chart_points, chart_rows, curves, mistakes, pictures
from tlmtl.report.chart_errors import CLASSES
from tlmtl.report.folders import Folders, Run
from tlmtl.report.mistakes import Listing, Wrong
from tlmtl.report.style import Chart
from tlmtl.report.view import Panel

SHORT, LONG = 8, 20  # lines of a list, beside a matrix and without one
TASKS = 8  # with charts of their own
GONE = "The folders of the runs are not beside the table, so there is no {} to read."


@dataclass
class Errors:
    """What the best run of one task got wrong."""

    title: str
    about: str  # which run
    charts: list[Chart] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    wrong: list[Wrong] = field(default_factory=list)
    images: dict[str, bytes] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    sheet: Chart | None = None  # the images again, for a file


@dataclass
class Section:
    """A part of the page. `missing` says why something that one may look for is not there."""

    id: str
    title: str
    about: str
    charts: list[Chart] = field(default_factory=list)
    errors: list[Errors] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def of(
    panels: list[Panel], folders: Folders, allow: list[str], images: bool, tell: Callable[[], object]
) -> list[Section]:
    """All sections between the table and the records of the runs, those that have nothing to show left out."""
    shown = panels[:TASKS]
    made = [results(shown), labels(shown), gains(panels), learning(shown, folders, tell),
            errors(shown, folders, allow, images)]  # fmt: skip
    if len(panels) > TASKS:
        made[0].missing.append(f"The first {TASKS} of {len(panels)} tasks have charts; the table has all.")
    return [one for one in made if one.charts or one.errors or one.missing]


def runs_to_read(panels: list[Panel]) -> int:
    """How often `of` will call `tell`."""
    own = [panel for panel in panels[:TASKS] if not panel.further]
    return sum(panel.rows["group_id"].isin(panel.first()["group_id"]).sum() for panel in own) * 2


def results(panels: list[Panel]) -> Section:
    """Each task's metric, and beside it what that cost."""
    about = (
        "★ is best on validation; the others follow. Small dots are runs, lines and whiskers are one standard deviation. "
        "Filled points are on the front: no other is as good on validation and as fast to train. Cost is the training "
        "time of a whole run, all its tasks together; that of a pre-trained source is not counted."
    )
    charts = [[chart_rows.results(panel), None if panel.further else chart_points.cost(panel)] for panel in panels]
    return Section("results", "Results and cost", about, [chart for pair in charts for chart in pair if chart])


def labels(panels: list[Panel]) -> Section:
    charts = [chart for panel in panels if (chart := chart_lines.against_labels(panel))]
    return Section(
        "labels",
        "Labels per class",
        "How each set-up does with few labels and with many. Whiskers are one standard deviation over seeds.",
        charts,
    )


def gains(panels: list[Panel]) -> Section:
    chart = chart_rows.gains(panels)
    about = (
        "One model for several tasks, against a measured model for each: the change of the test figure in percent, paired by "
        "seed, with its 95 % t-interval. ↓ marks a loss that is sure; Δm is the mean over the primary tasks."
    )
    return Section("gains", "Several tasks on one model", about, [chart] if chart else [])


def learning(panels: list[Panel], folders: Folders, tell: Callable[[], object]) -> Section:
    """Validation metric and loss as training went."""
    section = Section(
        "learning",
        "Learning curves",
        "Validation as training went: means over seeds, bands of one standard deviation. Each run keeps its best step.",
    )
    for panel in panels:
        if panel.further:
            continue
        first = panel.first()
        labels = dict(zip(first["group_id"].astype(str), first["label"].astype(str), strict=True))
        for name in (panel.metric, "loss"):
            found = curves.of(panel.rows, labels, folders, name, tell)
            if found:
                section.charts.append(chart_lines.learning(panel, found, name))
    if not section.charts:
        section.missing.append(GONE.format("history.csv"))
    return section


def errors(panels: list[Panel], folders: Folders, allow: list[str], images: bool) -> Section:
    """Confusions and the worst-predicted examples of each task's best run."""
    about = "On the test split, by the run that is best on validation. Nothing was chosen by what is seen here."
    section = Section("mistakes", "Where the best runs are wrong", about)
    for panel in panels:
        row = best_run(panel)
        run = folders.of_row(row) if row is not None else None
        if row is not None and run is not None and (found := _errors(panel, row, run, allow, images)):
            section.errors.append(found)
    if not section.errors:
        section.missing.append(GONE.format("predictions.parquet"))
    return section


def best_run(panel: Panel) -> pd.Series | None:
    """Of the group that is best on validation, the run that is best there."""
    if panel.best is None:
        return None
    rows = panel.rows[panel.rows["group_id"] == panel.best["group_id"]]
    rows = rows.assign(score=rows["val"] * panel.sign).sort_values("score", ascending=False, kind="stable")
    return rows.iloc[0] if len(rows) else None


def _errors(panel: Panel, row: pd.Series, run: Run, allow: list[str], images: bool) -> Errors | None:
    kind, classes = str(row.get("kind")), run.classes(panel.task)
    said = predictions.read(run.path, panel.task, predictions.split_of(panel.dataset))
    if said is None:
        return None
    seed = f", seed {row['seed']:g}" if pd.notna(row.get("seed")) else ""
    found = Errors(panel.title, f"{panel.groups['label'].iloc[0]}{seed}")
    if kind == "classification":
        counts = mistakes.confusion(said)
        if len(counts) <= CLASSES:
            found.charts.append(chart_errors.matrix(f"confusion_{panel.name}", "Confusion matrix", counts, classes))
        found.listings.append(mistakes.confused(counts, classes, SHORT if found.charts else LONG))
    elif kind == "multilabel":
        found.listings.append(mistakes.per_label(said, classes))
    elif kind == "regression":
        found.charts.append(
            chart_points.scatter(f"predicted_{panel.name}", "Predicted and true", said.target, said.output[:, 0])
        )
    found.wrong = mistakes.worst(said, kind, classes)
    if not found.wrong:
        found.missing.append("No test example is wrong.")
    elif panel.further:
        found.missing.append("Images of further test sets are not shown.")
    elif images:
        hashed = row.get("data_hash")
        known = None if pd.isna(hashed) else str(hashed)
        found.images, why = pictures.read(run, panel.task, [one.id for one in found.wrong], known, allow)
        if why:
            found.missing.append(f"The images cannot be shown: {why}.")
        if found.images:
            found.sheet = chart_errors.sheet(f"worst_{panel.name}", "Worst-predicted images", found.wrong, found.images)
    return found
