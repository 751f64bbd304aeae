"""Δm and negative transfer: what `tlmtl compare` says of multi-task runs against measured single-task runs."""

import io
import json
import time

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console
from scipy import stats
from test_compare import row, write

from tlmtl.compare import command, delta, formats, load, table

METRIC = {"left": "accuracy", "right": "accuracy", "sum": "mae"}


def run(seed=0, sharing="hard", weighting="sum", strategy="multitask", tasks=("left", "sum"), **more) -> list[dict]:
    """The rows of one run; `left=0.8` is its test figure of the task left."""
    figures = {task: more.pop(task) for task in METRIC if task in more}
    auxiliary, name = more.pop("auxiliary", ()), f"{strategy}_{sharing}_{weighting}_{'+'.join(tasks)}"
    made = []
    for task in tasks:
        one = row(
            strategy, seed, task=task, tasks="+".join(tasks), sharing=sharing, weighting=weighting, baseline_id="b",
            data_hash="d", source_hash="s", dataset="two_digits", primary=task not in auxiliary, tlmtl="1", device="cpu",
            precision="32-true", run_id=f"1_{name}_{seed}", config_hash=f"{name}_{seed}", group_id=name,
            kind="regression" if METRIC[task] == "mae" else "classification",
        )  # fmt: skip
        del one["test/accuracy"], one["val/accuracy"]
        made.append(one | {f"{split}/{METRIC[task]}": figures[task] for split in ("test", "val")} | more)
    return made


def none(seed=0, **more) -> list[dict]:
    return run(seed, "none", "", "separate", **more)


def summed(*runs: list[dict], **settings) -> table.Summary:
    return table.summarise(pd.DataFrame([one for rows in runs for one in rows]), **settings)


def gains(summary: table.Summary, strategy="multitask") -> pd.DataFrame:
    groups = summary.groups
    return groups[groups["strategy"] == strategy].set_index("task")


def test_relative_change_with_the_sign_of_the_metric():
    found = gains(summed(none(left=0.8, sum=2.0), run(left=0.9, sum=2.5)))
    assert found["delta"].to_dict() == pytest.approx({"left": 12.5, "sum": -25.0})  # mae: lower is better
    assert found["delta_m"].tolist() == pytest.approx([-6.25, -6.25])
    assert found["delta_n"].tolist() == [1, 1] and found["delta_half"].isna().all()
    better = gains(summed(none(left=0.8, sum=2.0), run(left=0.8, sum=1.5)))
    assert better["delta"].to_dict() == pytest.approx({"left": 0.0, "sum": 25.0})


def test_a_negative_baseline_is_divided_by_its_size():
    rows = [one | {"test/r2": r2} for r2, made in ((-0.5, none), (0.5, run)) for one in made(tasks=("sum",), sum=1.0)]
    rows[1] |= {"tasks": "left+sum"}
    assert summed(rows, metric="r2").groups["delta"].dropna().tolist() == [200.0]


def test_seeds_are_paired_and_a_seed_without_a_baseline_is_left_out():
    singles = [none(seed, left=left, sum=2.0) for seed, left in enumerate((0.5, 0.8))]
    shared = [run(seed, left=left, sum=2.0) for seed, left in enumerate((0.55, 0.84, 0.99))]
    summary = summed(*singles, *shared)
    left = gains(summary).loc["left"]
    assert left[["n", "delta_n", "delta"]].tolist() == pytest.approx([3, 2, (10 + 5) / 2])
    assert left["delta_half"] == pytest.approx(stats.t.ppf(0.975, 1) * stats.sem([10.0, 5.0]))
    assert left[["delta_m", "delta_m_sd"]].tolist() == pytest.approx([3.75, stats.tstd([5.0, 2.5])])
    assert summary.notes[0].startswith("Unequal n: separate (left) (n = 2, without seed 2)")
    assert summary.notes[1:] == [
        "2 deltas are of fewer seeds than the figure beside: only seeds that have a single-task run are paired.",
        "Δm needs measured single-task runs: none for strategy=multitask seed=2. To add them, give the same command "
        "again with sharing=none.",
    ]


@pytest.mark.parametrize("name", ["data_hash", "source_hash", "device", "precision"])
def test_a_run_on_other_data_or_hardware_is_no_baseline(name):
    summary = summed(none(left=0.8, sum=2.0, **{name: "other"}), run(left=0.9, sum=2.5))
    assert summary.groups["delta"].isna().all() and summary.groups["delta_m"].isna().all()
    told = {"device": " hardware.device=cpu", "precision": " hardware.precision=32-true"}.get(name, "")
    assert summary.notes[-1] == (
        f"Δm needs measured single-task runs: none for strategy=multitask{told} seed=0 (those there are have another {name})"
        ". To add them, give the same command again with sharing=none."
    )


def test_another_baseline_id_or_seed_is_no_baseline():
    for other in ({"baseline_id": "c"}, {"seed": 1}):
        assert summed(none(left=0.8, sum=2.0) + run(left=0.9, sum=2.5, **other)).groups["delta"].isna().all()


def test_auxiliary_tasks_have_a_delta_and_no_part_in_delta_m():
    found = gains(summed(none(left=0.8, sum=2.0, auxiliary=["sum"]), run(left=0.9, sum=2.5, auxiliary=["sum"])))
    assert found["delta"].tolist() == pytest.approx([12.5, -25.0]) and found["delta_m"].tolist() == pytest.approx(
        [12.5, 12.5]
    )


def test_separate_models_go_before_single_task_runs_and_these_before_nothing():
    alone = run(tasks=("left",), left=0.5), run(tasks=("sum",), sum=4.0)
    found = gains(summed(*alone, run(left=0.6, sum=3.0, strategy="both")), "both")
    assert found["delta"].tolist() == pytest.approx([20.0, 25.0])
    found = gains(summed(*alone, none(left=0.8, sum=2.0), run(left=0.6, sum=3.0, strategy="both")), "both")
    assert found["delta"].tolist() == pytest.approx([-25.0, -50.0])


def test_one_missing_single_task_run_leaves_delta_m_empty_and_is_named():
    summary = summed(run(tasks=("left",), left=0.5), run(left=0.6, sum=3.0, strategy="both"))
    assert (
        gains(summary, "both")["delta"].round(6).tolist()[0] == 20.0 and gains(summary, "both")["delta_m"].isna().all()
    )
    assert "none for task sum for strategy=both seed=0." in summary.notes[-1]


def test_the_same_version_of_tlmtl_counts_first_then_the_newest():
    def version(name, left, day):
        return none(left=left, sum=2.0, tlmtl=name, run_id=f"{day}_none")

    shared = run(left=0.9, sum=2.0, tlmtl="2")
    old = [version("0", 0.3, 1), version("1", 0.6, 2)]
    assert gains(summed(*old, shared)).loc["left", "delta"] == pytest.approx(50.0)
    both = [version("2", 0.45, 0), *old]
    assert gains(summed(*both, shared)).loc["left", "delta"] == pytest.approx(100.0)
    again = none(left=0.75, sum=2.0, tlmtl="2", run_id="9_none")
    assert gains(summed(*both, again, shared)).loc["left", "delta"] == pytest.approx(20.0)


def test_a_baseline_of_zero_gives_no_delta():
    summary = summed(none(left=0.0, sum=2.0), run(left=0.9, sum=2.0))
    assert gains(summary)["delta"].isna().tolist() == [True, False] and summary.groups["delta_m"].isna().all()
    assert "1 row without delta: the baseline's figure is 0 or missing." in summary.notes


def test_unfinished_baselines_do_not_count():
    failed = none(left=0.8, sum=2.0, status="failed")
    assert summed(failed, run(left=0.9, sum=2.5)).groups["delta"].isna().all()


def test_further_test_sets_have_deltas_of_their_own_and_fused_rows_none():
    def also(rows, left):
        further = next(one for one in rows if one["task"] == "left") | {"dataset": "two_digits->b", "data_hash": "e"}
        fused = rows[0] | {"task": "fused:vote", "test/accuracy": 0.99}
        return [*rows, further | {"test/accuracy": left}, fused]

    summary = summed(also(none(left=0.8, sum=2.0), 0.4), also(run(left=0.9, sum=2.0), 0.5))
    groups = summary.groups[summary.groups["sharing"] == "hard"].set_index(["dataset", "task"])
    assert groups["delta"].dropna().to_dict() == pytest.approx(
        {("two_digits", "left"): 12.5, ("two_digits", "sum"): 0.0, ("two_digits->b", "left"): 25.0}
    )
    # of the further set, `sum` has no row: its mean would be one of other tasks
    assert groups["delta_m"].dropna().to_dict() == pytest.approx(
        {("two_digits", "left"): 6.25, ("two_digits", "sum"): 6.25}
    )


def test_a_metric_that_leaves_a_primary_task_out_leaves_delta_m_empty():
    runs = none(left=0.8, sum=2.0), run(left=0.9, sum=2.5)
    summary = summed(*runs, metric="accuracy")
    assert gains(summary)["delta"].to_dict() == pytest.approx({"left": 12.5}) and summary.groups["delta_m"].isna().all()
    assert "Δm needs all primary tasks: without --metric. Some were not measured by accuracy." in summary.notes
    for others in (summed(*runs), summed(*runs, metric="mae", only=pd.Index([0, 1]))):  # none left out, none shown
        assert not any("without --metric" in note for note in others.notes)
    auxiliary = summed(
        *(made(left=x, sum=2.0, auxiliary=["sum"]) for made, x in ((none, 0.8), (run, 0.9))), metric="accuracy"
    )
    assert gains(auxiliary)["delta_m"].tolist() == pytest.approx([12.5])  # all primary tasks have the metric
    assert not any("without --metric" in note for note in auxiliary.notes)


def test_a_filter_takes_no_baseline_away(tmp_path, capsys):
    rows = [*none(left=0.8, sum=2.0), *run(left=0.9, sum=2.5)]
    path = str(write(tmp_path, rows))
    command.main([path, "--format", "json", "--filter", "sharing == hard", "--filter", "task == left"])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["delta_mean"] == pytest.approx(12.5) and found["delta_m_mean"] == pytest.approx(-6.25)
    assert found["delta_half"] is None and found["delta_m_sd"] is None and found["delta_n"] == 1


def test_rows_of_a_run_without_several_tasks_have_no_gain_columns(tmp_path, capsys):
    command.main([str(write(tmp_path, run(tasks=("left",), left=0.8))), "--format", "csv"])
    assert "delta" not in capsys.readouterr().out


def test_labels_seen_is_shown_when_asked_for(tmp_path, capsys):
    path = str(write(tmp_path, none(left=0.8, sum=2.0, labels_seen=70)))
    for form in ("table", "csv"):
        command.main([path, "--format", form])
        assert "labels_seen" not in capsys.readouterr().out
    command.main([path, "--format", "csv", "--columns", "task,labels_seen"])
    assert capsys.readouterr().out.split() == ["task,labels_seen", "left,70", "sum,70"]


def test_older_files_without_the_column_are_read(tmp_path, capsys):
    path = write(tmp_path, run(left=0.9, sum=2.5))
    old = pd.read_csv(path / "results.csv").drop(columns=["baseline_id", "labels_seen"])
    old.to_csv(path / "results.csv", index=False)
    assert command.main([str(path)]) == 0
    assert "name no baseline (column baseline_id)" in capsys.readouterr().out


def losing(weighting: str, losses: list[float], **more) -> list[list[dict]]:
    """Runs whose accuracy is that many percent below their baselines', one for each seed."""
    return [run(seed, weighting=weighting, left=0.5 * (1 - x / 100), sum=2.0, **more) for seed, x in enumerate(losses)]


def test_negative_transfer_is_flagged_when_the_interval_lies_below_zero():
    singles = [none(seed, left=0.5, sum=2.0) for seed in range(3)]
    summary = summed(*singles, *losing("sum", [3.0, 4.0, 5.0]), *losing("famo", [0.0, 4.0, 8.0]))
    by = summary.groups.set_index(["weighting", "task"])
    for weighting, losses, flagged in (("sum", [3, 4, 5], True), ("famo", [0, 4, 8], False)):
        low, high = stats.t.interval(0.95, 2, -4, stats.sem(losses))
        one = by.loc[(weighting, "left")]
        assert [one["delta"] - one["delta_half"], one["delta"] + one["delta_half"]] == pytest.approx([low, high])
        assert (high < 0) == flagged
    half = 4 - stats.t.interval(0.95, 2, 4, stats.sem([3, 4, 5]))[0]
    assert summary.notes == [
        f"Negative transfer: task left of multitask · sum loses 4.0 % ± {half:.1f} % (n = 3).",
        "Intervals are seed-paired 95 % t-intervals, not corrected for several tasks: one in 40 lies below zero by luck.",
    ]
    text = formats.render(summary, "table")
    assert text.count("↓") == 1 and f"-4.0 ± {half:.1f} ↓" in text
    assert r"$\downarrow$" in formats.render(summary, "latex") and "↓ |" in formats.render(summary, "md")


def test_one_seed_flags_nothing_and_says_so():
    summary = summed(none(left=0.8, sum=2.0), run(left=0.4, sum=2.0))
    assert "↓" not in formats.render(summary, "table")
    assert summary.notes == [
        "Every delta is from one seed, which has no interval: negative transfer can't be told. Run more seeds."
    ]


def test_missing_runs_are_said_in_three_lines():
    runs = [
        run(s, left=0.5, sum=2.0, baseline_id=f"{lr}", lr=lr, group_id=f"g{lr}", config_hash=f"{lr}{s}", run_id=f"{lr}{s}")
        for lr in (0.1, 0.2, 0.3, 0.4) for s in (0, 1)
    ]  # fmt: skip
    assert [note.strip() for note in summed(*runs).notes] == [
        "Δm needs measured single-task runs: none for strategy=multitask optimizer.lr=0.1 seed=0,1",
        "none for strategy=multitask optimizer.lr=0.2 seed=0,1",
        "... and none for 2 more set-ups. To add them, give the same command again with sharing=none.",
    ]


@pytest.fixture
def sweep(tmp_path):
    rows = [one for seed in range(3) for one in none(seed, left=0.5, sum=2.0, seconds_per_step=0.0123)]
    for weighting in ("sum", "uncertainty"):
        rows += [one for made in losing(weighting, [3, 4, 5], seconds_per_step=0.0123) for one in made]
    return write(tmp_path, rows)


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_in_terminals(sweep, width):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    table.draw(table.summarise(load.read([sweep])), console)
    lines = console.file.getvalue().splitlines()
    text = "\n".join(lines)
    assert max(map(cell_len, lines)) <= width
    for needed in ("delta %", "± 95 % t", "delta_m", "-4.0 ± 2.5 ↓", "-2.0 ± 0.5", "0.4800 ± 0.0050", "uncertainty"):
        assert needed in text
    assert any(" val " in line for line in lines) == (width == 120)
    if width == 80:
        assert "Left out in this width: val, " in text


def test_gains_can_be_chosen_and_sorted_by(sweep, capsys):
    command.main([str(sweep), "--columns", "task,weighting,delta,delta_m", "--sort", "delta_m", "--format", "md"])
    lines = capsys.readouterr().out.splitlines()
    assert "| task | weighting | delta % (± 95 % t-interval) | delta_m % (± sd) |" in lines
    assert "| left | sum | -4.0 ± 2.5 ↓ | -2.0 ± 0.5 |" in lines
    assert [line.split(" | ")[-1] for line in lines[-2:]] == [" |", " |"]  # separate models last: nothing to compare


def test_gains_of_ten_thousand_runs_take_no_longer_than_all_the_rest():
    rows = []
    for n in range(10_000):
        made = {"left": 0.5 + n % 7 / 100, "right": 0.5, "sum": 2.0, "tasks": tuple(METRIC)}
        more = {"run_id": f"{n:05}", "config_hash": f"c{n}", "group_id": f"g{n % 40}", "baseline_id": f"b{n % 40 // 2}"}
        rows += none(n // 40, **made, **more) if n % 2 else run(n // 40, **made, **more)
    frame = pd.DataFrame(rows)
    times = []
    for one in (frame.assign(tasks=frame["task"]), frame, frame.assign(tasks=frame["task"]), frame):
        start = time.perf_counter()
        found = table.summarise(one).groups
        times.append(time.perf_counter() - start)
    assert min(times[1::2]) < 2 * min(times[::2])
    assert found["delta"].notna().sum() == 60 and (found["delta_n"] == 250).sum() == 60


def test_gains_keep_the_index_of_their_rows():
    frame = pd.DataFrame([*none(left=0.8, sum=2.0), *run(left=0.9, sum=2.5)], index=[7, 3, 9, 1])
    frame["metric"], frame["test"] = ["accuracy", "mae"] * 2, [0.8, 2.0, 0.9, 2.5]
    found = delta.of(frame)
    assert found.index.tolist() == [7, 3, 9, 1]
    assert found["delta"].dropna().to_dict() == pytest.approx({9: 12.5, 1: -25.0})
    assert found["baseline"].dropna().unique().tolist() == ["1_separate_none__left+sum_0"]
