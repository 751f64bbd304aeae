"""`--over` where runs have several tasks: one model has one setting."""

import pandas as pd
from test_compare import row

from tlmtl.compare import table


def both(lr: float, left: float, right: float, **more) -> list[dict]:
    """The two rows of a run with the tasks left (accuracy) and right (mean absolute error), by their validation figures."""
    name = f"s_{lr}_{more.get('seed', 0)}"
    shared = {"lr": lr, "tasks": "left+right", "config_hash": name, "group_id": f"s_{lr}", "run_id": name}
    return [
        row(task="left", val=left, test=0.5, **shared | more),
        row(task="right", **shared | more)
        | {"val/accuracy": "", "test/accuracy": "", "val/mae": right, "test/mae": 2.0},
    ]


def test_tasks_of_one_run_get_one_setting():
    """Each task for itself would choose lr .1 for left and .01 for right."""
    rows = [*both(0.1, 0.90, 4.0), *both(0.01, 0.89, 2.0), *both(1.0, 0.2, 2.1)]
    summary = table.summarise(pd.DataFrame(rows), over=["lr"])
    assert summary.groups[["task", "lr"]].values.tolist() == [["left", 0.01], ["right", 0.01]]
    assert "Tasks of one run share a choice" in summary.notes[1]


def test_auxiliary_tasks_and_further_test_sets_follow():
    rows = [*both(0.1, 0.9, 9.0), *both(0.01, 0.8, 1.0)]
    for one in rows:
        one["primary"] = "false" if one["task"] == "right" else "true"
    rows += [one | {"dataset": "digits->other", "val/accuracy": ""} for one in rows if one["task"] == "left"]
    groups = table.summarise(pd.DataFrame(rows), over=["lr"]).groups
    assert groups[["dataset", "task", "lr"]].values.tolist() == [
        ["digits", "left", 0.1], ["digits", "right", 0.1], ["digits->other", "left", 0.1],
    ]  # fmt: skip


def test_a_run_without_a_primary_task_on_validation_is_not_chosen():
    rows = [*both(0.1, 0.9, 1.0), *both(0.01, 0.95, 0.5)]
    rows[3]["val/mae"] = ""
    summary = table.summarise(pd.DataFrame(rows), over=["lr"])
    assert summary.groups["lr"].tolist() == [0.1, 0.1]
    assert "2 candidates without a validation metric could not be chosen." in summary.notes
