"""What is said beside gains of multi-task runs: why one is missing, and of which runs one speaks."""

from test_delta import none, run, summed


def test_a_primary_task_without_test_labels_is_named():
    rows = [*none(left=0.8, sum=2.0), *run(left=0.9, sum=2.5)]
    for one in rows:
        if one["task"] == "sum":
            one["test/mae"] = None
    summary = summed(rows)
    assert summary.groups["delta_m"].isna().all()
    assert "No Δm where a primary task has no test figure: sum." in summary.notes


def test_a_missing_run_is_told_with_its_precision():
    half = [
        {**one, "run_id": one["run_id"] + "h", "config_hash": "h", "group_id": "h"} for one in run(left=0.9, sum=2.5)
    ]
    half = [one | {"precision": "bf16-mixed"} for one in half]
    (note,) = [one for one in summed(run(left=0.8, sum=2.0), none(left=0.8, sum=2.0), half).notes if "Δm needs" in one]
    assert (
        "none for strategy=multitask hardware.precision=bf16-mixed seed=0 (those there are have another precision)"
        in note
    )


def test_a_loss_is_told_by_strategy_and_weighting_not_by_its_task_again():
    seeds = range(3)
    singles = [none(seed, left=0.9 + seed / 100, sum=2.0) for seed in seeds]
    shared = [run(seed, left=0.8 + seed / 100, sum=2.0, weighting=w) for seed in seeds for w in ("sum", "mgda")]
    lines = [note for note in summed(*singles, *shared).notes if note.startswith("Negative transfer")]
    assert [line.split(" loses")[0] for line in sorted(lines)] == [
        "Negative transfer: task left of multitask · mgda",
        "Negative transfer: task left of multitask · sum",
    ]
