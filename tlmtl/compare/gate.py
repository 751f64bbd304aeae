"""`--fail-if 'KEY OP VALUE'`: conditions on the rows of the finished table, for scripts that must stop where one holds."""

import pandas as pd

from tlmtl.compare import baseline, filters, keys, names
from tlmtl.compare.filters import Filter
from tlmtl.compare.groups import PER_RUN, Summary
from tlmtl.errors import ConfigError

FLAG = "--fail-if"
WITH_BASELINE = [*baseline.COLUMNS, "is_baseline"]


def check(summary: Summary, conditions: list[Filter]) -> list[str]:
    """What to say of each condition that a row fulfils, or that no row has a figure for: nothing was checked then, and a
    script that goes on would believe it was.

    Raises ConfigError for a key that is no column of the table.
    """
    groups = summary.groups
    if groups.empty:
        return []
    named = names.of(groups, summary.settings)
    said = []
    for one in conditions:
        name = _column(groups, one)
        cells = groups[name]
        text = f"{FLAG} '{one.key} {one.op} {one.value}'"
        if pd.api.types.is_numeric_dtype(cells) and cells.isna().all():
            said.append(f"{text}: no row has a figure in {name}, so nothing could be checked.")
            continue
        holds = groups[filters.passes(cells, one, FLAG).astype(bool)]
        if len(holds):
            rows = [f"{named[at]} ({name} {_shown(cells[at])})" for at in holds.index]
            said.append(f"{text} holds for {len(holds)} of {len(groups)} rows: {names.listed(rows)}.")
    return said


def _column(groups: pd.DataFrame, one: Filter) -> str:
    known = [name for name in map(str, groups) if name not in PER_RUN]
    if one.key in WITH_BASELINE and one.key not in known:
        raise ConfigError(f"{FLAG} '{one.key} {one.op} {one.value}' needs a baseline: --baseline KEY=VALUE.")
    return keys.resolve(one.key, known, FLAG)


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
