"""`tlmtl compare` on runs of a joint data set, whose tasks stand on different parts: each row has its own part's hashes."""

import pytest
from test_delta import gains, none, run, summed

from tlmtl.compare import front


def joint(made, *args, hashes=("a", "b"), **more) -> list[dict]:
    """Rows of a joint data set: each task stands on its own part's data."""
    parts = dict(zip(("left", "sum"), hashes, strict=True))
    rows = made(*args, **more)
    return [
        one | {"dataset": "joint", "data_hash": parts[one["task"]], "subset_hash": parts[one["task"]]} for one in rows
    ]


def test_tasks_of_a_joint_data_set_differ_in_data_and_are_one_run():
    alone = [joint(run, seed, tasks=("left",), left=0.8) + joint(run, seed, tasks=("sum",), sum=2.0) for seed in (0, 1)]
    for singles in (alone, [joint(none, seed, left=0.8, sum=2.0) for seed in (0, 1)]):
        shared = [joint(run, seed, left=0.9, sum=2.5, strategy="both") for seed in (0, 1)]
        summary = summed(*singles, *shared)
        found = gains(summary, "both")
        assert found["n"].tolist() == [2, 2] and found["group_id"].nunique() == 1
        assert found["delta"].to_dict() == pytest.approx({"left": 12.5, "sum": -25.0})
        assert found["delta_m"].tolist() == pytest.approx([-6.25, -6.25])
        assert not any("kept apart" in note or "Δm needs" in note for note in summary.notes)
        assert "data_hash" not in summary.varying()


def test_another_version_of_one_part_is_other_data_and_the_run_stays_whole():
    new = joint(run, left=0.9, sum=2.5, hashes=("a", "c"), run_id="2_new")
    summary = summed(joint(none, left=0.8, sum=2.0), joint(run, left=0.8, sum=2.0), new)
    assert "Runs of one config on different data are not repeats: kept apart by data_hash." in summary.notes
    rows = summary.groups[summary.groups["sharing"] == "hard"].set_index(["group_id", "task"])
    name = "multitask_hard_sum_left+sum"
    assert rows["n"].to_dict() == {(f"{name} {data}", task): 1 for data in ("a+b", "a+c") for task in ("left", "sum")}
    assert rows["delta"].dropna().to_dict() == pytest.approx(
        {(f"{name} a+b", "left"): 0.0, (f"{name} a+b", "sum"): 0.0, (f"{name} a+c", "left"): 12.5}
    )
    assert rows["delta_m"].dropna().tolist() == pytest.approx([0.0, 0.0])  # a baseline of the new part is missing


def test_tasks_of_a_joint_data_set_stand_on_one_front():
    rows = [joint(run, left=0.9, sum=2.5), joint(run, weighting="famo", left=0.99, sum=1.0)]
    points = front.find(summed(*rows)).points.set_index("weighting")
    assert points["family"].tolist() == [0, 0] and points.loc["famo", "margin"] == pytest.approx(
        60.0
    )  # of the task that gained most
    assert points["left"].tolist() == [0.9, 0.99] and points["sum"].tolist() == [2.5, 1.0]
