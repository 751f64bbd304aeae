"""The first lines of the page, in words: what was compared, what is best by validation, and how sure that is."""

from collections.abc import Iterable

import pandas as pd

from tlmtl.compare import printed, stats
from tlmtl.compare.groups import Summary
from tlmtl.report.view import Panel

NAMED = 6  # set-ups that are named one by one


def opening(summary: Summary, panels: list[Panel], everything: pd.DataFrame) -> str:
    """What is on the page: data, tasks, set-ups, runs."""
    done = summary.rows["run_id"].nunique()
    planned = len(
        set(everything["config_hash"]) | set(summary.rows["config_hash"])
    )  # made again, a run is no other one
    own = [panel for panel in panels if not panel.further] or panels
    data = listed(dict.fromkeys(panel.dataset for panel in own if panel.dataset))
    tasks = [panel.task for panel in own if panel.task]
    kinds: list[str] = list(summary.groups["kind"].dropna().unique()) if "kind" in summary.groups else []
    names = list(dict.fromkeys(label for panel in own for label in panel.groups["label"]))
    repeats = sorted(summary.groups["n"].dropna().unique())
    compared = f"{len(names):,} set-ups" if len(names) != 1 else "one set-up"
    if 1 < len(names) <= NAMED:
        compared += f" ({listed(names)})"
    trained = ""
    if repeats and repeats[-1] > 1:
        times = f"{repeats[0]:.0f}{f' to {repeats[-1]:.0f}' if len(repeats) > 1 else ''} times"
        trained = f"{'It' if len(names) == 1 else 'Each'} was trained {times}, with other seeds: "
    kind = f", a {kinds[0]}" if len(kinds) == 1 else ""
    about = [f"the data set {data}"] if data else []
    if tasks:
        told = f"task {tasks[0]}{kind}" if len(tasks) == 1 else f"tasks {listed(dict.fromkeys(tasks))}"
        about = [f"{about[0]} ({told})"] if about else [f"the {told}"]
    finished = "all finished" if done >= planned else f"of {planned:,} that were started"
    where = f" on {' and '.join(about)}" if about else ""
    runs = f"{done:,} run{'s' * (done != 1)}, {finished}."
    return (
        f"This page compares {compared}{where}. {trained}{runs}"
        if len(names) != 1
        else f"This page shows {compared}{where}. {trained}{runs}"
    )


def verdicts(panels: list[Panel]) -> list[tuple[str, str]]:
    """For each task (and each number of labels per class) what is best by validation, and how sure that is."""
    found = []
    for panel in panels:
        if panel.further:
            continue
        for where, groups in _by_labels(panel.groups):
            named = groups[groups["score"].notna()]
            if not len(named) and len(groups) > 1:
                found.append(
                    (panel.title, "Nothing was measured on validation, so none is called the best: test is no judge.")
                )
            elif len(named):
                title = " · ".join(filter(None, [panel.title, where]))
                found.append((title, _verdict(panel, named)))
    return found


def _by_labels(groups: pd.DataFrame) -> Iterable[tuple[str, pd.DataFrame]]:
    counts = groups["labels_per_class"] if "labels_per_class" in groups else pd.Series(dtype=float)
    if counts.nunique(dropna=False) < 2:
        return [("", groups)]
    several = [(count, part) for count, part in groups.groupby("labels_per_class", dropna=False) if len(part) > 1]
    return [(f"{_count(count)} {'label' if count == 1 else 'labels'} per class", part) for count, part in several] or [
        ("", groups)
    ]


def _count(value: object) -> str:
    return "all" if pd.isna(value) else printed.number(float(str(value)))  # type: ignore[call-overload]


def _verdict(panel: Panel, groups: pd.DataFrame) -> str:
    best = groups.iloc[0]
    name = best["series_label"] if groups["series_label"].is_unique else best["label"]
    said = f"{name} is best by validation {panel.metric} ({_figure(best, 'val', groups)})" if len(groups) > 1 else (
        f"{name} has a validation {panel.metric} of {_figure(best, 'val', groups)}")  # fmt: skip
    if panel.split == "test" and pd.notna(best["test"]):
        said += f"; on test, by which nothing was chosen, it reaches {_figure(best, 'test', groups)}"
    said += "."
    return f"{said} {_how_sure(panel, best, groups.iloc[1])}" if len(groups) > 1 else said


def _how_sure(panel: Panel, best: pd.Series, following: pd.Series) -> str:
    """The best and the next by validation, compared on test with pairs of one seed each."""
    unique = following["label"] if following["series_label"] == best["series_label"] else following["series_label"]
    name, split = unique, panel.split
    where = "on test" if split == "test" else "on validation"
    pair = [panel.rows[panel.rows["group_id"] == group["group_id"]] for group in (best, following)]
    if not all("seed" in rows and rows["seed"].notna().all() and rows["seed"].is_unique for rows in pair):
        return f"How sure the lead over {name} is cannot be said: runs have no seeds to be paired by."
    ahead = panel.sign * (pair[0].set_index("seed")[split] - pair[1].set_index("seed")[split])
    found = stats.paired(ahead)
    if found.n == 0:
        return f"How sure the lead over the next, {name}, is cannot be said: the two share no seed."
    digits = printed.places(max(abs(float(best[split])), abs(float(following[split]))))
    size = f"{abs(found.mean):.{digits}f} {'better' if found.mean > 0 else 'worse'}"
    size = "just as good" if float(f"{found.mean:.{digits}f}") == 0 else size
    than = "as" if size == "just as good" else "than"
    if found.n == 1:
        return f"It is {size} {where} {than} the next by validation, {name}; one seed says nothing of chance."
    low, high = found.mean - found.half, found.mean + found.half
    interval = f"95 % t-interval {_signed(low, digits)} to {_signed(high, digits)}, {found.n} pairs of one seed each"
    if low > 0:
        sure = "the lead is more than chance between trainings"
    elif high < 0:
        sure = "so on test it is the other that leads"
    else:
        sure = f"{found.n} seeds do not tell the two apart"
    return f"It is {size} {where} {than} the next by validation, {name} ({interval}): {sure}."


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def _figure(group: pd.Series, split: str, groups: pd.DataFrame) -> str:
    digits = printed.places(float(groups[split].abs().max()))
    if pd.isna(group[split]):
        return "not measured"
    sd = group[f"{split}_sd"]
    return f"{group[split]:.{digits}f}" + ("" if pd.isna(sd) else f" ± {sd:.{digits}f}")


def listed(names: Iterable[object]) -> str:
    """`a, b and c`."""
    words = [str(name) for name in names]
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)
