"""What stands at the end of the page: runs that did not finish, commands, versions and machines."""

from collections.abc import Iterable

import pandas as pd

from tlmtl.compare import printed
from tlmtl.report import again
from tlmtl.report.folders import Folders
from tlmtl.report.view import Panel

MOST = 200  # lines of a list
SAID = 400  # letters of an error
COLUMNS = {"tlmtl": "tlmtl", "torch": "torch", "git_sha": "git commit", "device": "device", "precision": "precision",
           "threads": "threads"}  # fmt: skip


def unfinished(rows: pd.DataFrame, summary_rows: pd.DataFrame) -> tuple[list[list[str]], int]:
    """Run, status and reason of the runs in `rows` that did not finish, at most `MOST`; and how many there are.

    A run that failed and was made again since is not among them.
    """
    status = rows["status"].fillna("unknown")
    lost = rows[(status != "done") & ~rows["config_hash"].isin(summary_rows["config_hash"])]
    lost = lost.drop_duplicates("config_hash", keep="last")
    errors = lost["error"] if "error" in lost else pd.Series("", index=lost.index)
    shown = zip(lost["run_id"], lost["status"].fillna("unknown"), errors.fillna(""), strict=True)
    lines = [[str(run), str(state), str(error).strip()[:SAID]] for run, state, error in shown]
    return lines[:MOST], len(lines)


def commands(panels: list[Panel]) -> list[tuple[str, str]]:
    """By set-up, the command that makes its runs again."""
    found: dict[str, str] = {}
    for panel in panels:
        if panel.further:
            continue
        runs = dict(list(panel.rows.groupby("group_id", sort=False)))
        for _, group in panel.groups.iterrows():
            said = again.command(runs[group["group_id"]])
            if said and said not in found:
                found[said] = str(group["label"])
    return [(label, said) for said, label in found.items()]


def versions(rows: pd.DataFrame) -> list[list[str]]:
    """By program and machine setting, the values that finished runs were made with, and how many runs each."""
    runs = rows.drop_duplicates("run_id")
    lines = []
    for name, title in COLUMNS.items():
        if name in runs and runs[name].notna().any():
            counts = printed.settings(runs[name]).value_counts()
            values = [
                f"{value or 'not known'}{f' ({count:,} runs)' * (len(counts) > 1)}" for value, count in counts.items()
            ]
            lines.append([title, ", ".join(values[:8]) + (", ..." if len(values) > 8 else "")])
    return lines


def machine(runs: Iterable[pd.Series | None], folders: Folders) -> list[list[str]]:
    """Hardware and packages of the first of `runs` that has a record."""
    for row in runs:
        run = folders.of_row(row) if row is not None else None
        if run is None:
            continue
        hardware, packages = (run.record.get(key) for key in ("hardware", "versions"))
        lines = (
            [[str(key), str(value)] for key, value in hardware.items() if value] if isinstance(hardware, dict) else []
        )
        if isinstance(packages, dict):
            lines.append(["packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)])
        if lines:
            return lines
    return []
