"""`tlmtl compare`: reading, grouping and choosing. How the result is printed: `test_compare_output.py`."""

import csv
from pathlib import Path
from statistics import mean, stdev

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tlmtl import columns
from tlmtl.compare import filters, keys, load, metrics, table
from tlmtl.errors import ConfigError


def row(strategy="linear_probe", seed=0, test: float | str = 0.9, val: float | str = 0.8, **more) -> dict:
    """One row of a results.csv; rows that differ in `seed` alone are of one group."""
    lr, task = more.get("lr", 0.01), more.get("task", "digit")
    name = f"{strategy}_{lr}_{more.get('overrides', '')}_{more.get('labels_per_class', '')}"
    made = {
        "run_id": f"20260101-000000_{name}_{seed}", "config_hash": f"{name}_{seed}", "group_id": name, "status": "done",
        "dataset": "digits", "task": task, "kind": "classification", "model": "small_cnn", "source": "none",
        "strategy": strategy, "tasks": task, "seed": seed, "lr": lr, "val/accuracy": val, "test/accuracy": test,
        "train_seconds": 2.0, "parameters_trained": 650,
    }  # fmt: skip
    return made | more


def write(path: Path, rows: list[dict]) -> Path:
    """`path`/results.csv with all columns of the contract, empty where a row has none."""
    path.mkdir(parents=True, exist_ok=True)
    contract = [*columns.ROW, *columns.SETTINGS, *columns.PLAN, *columns.COSTS, *columns.PROVENANCE]
    names = columns.ordered(list(dict.fromkeys([*contract, *(name for one in rows for name in one)])))
    with (path / "results.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def failed(**more) -> dict:
    return row(test="", val="", status="failed", **more)


def test_mean_and_deviation_over_seeds(tmp_path):
    tests, vals = [0.9, 0.92, 0.97], [0.8, 0.85, 0.81]
    rows = [row(seed=seed, test=t, val=v) for seed, (t, v) in enumerate(zip(tests, vals, strict=True))]
    summary = table.summarise(load.read([write(tmp_path, [*rows, row("finetune_all", test=0.5)])]))
    probe = summary.groups.set_index("strategy").loc["linear_probe"]
    assert probe[["n", "test", "test_sd", "val", "val_sd"]].tolist() == pytest.approx(
        [3, mean(tests), stdev(tests), mean(vals), stdev(vals)]
    )
    alone = summary.groups.set_index("strategy").loc["finetune_all"]
    assert alone["n"] == 1 and pd.isna(alone["test_sd"])


def test_what_differs_is_shown_and_what_does_not_is_constant(tmp_path):
    rows = [row(), row(seed=1), row("finetune_all", labels_per_class=5)]
    summary = table.summarise(load.read([write(tmp_path, rows)]))
    assert summary.varying() == ["strategy", "labels_per_class"]
    assert {"dataset", "task", "model", "lr"} <= set(summary.constants())
    assert not {"seed", "sharing", "strategy"} & set(summary.constants())  # `sharing` is empty in all rows


def test_groups_that_agree_in_all_settings_are_told_apart_by_the_plan(tmp_path):
    rows = [row(precision="32-true"), row(seed=1, precision="bf16-mixed", group_id="other")]
    assert table.summarise(load.read([write(tmp_path, rows)])).varying() == ["precision"]


def test_keys_of_overrides_are_settings_of_their_own(tmp_path):
    rows = [row(overrides="a.b=flip; c=1"), row(overrides="a.b=none; c=1")]
    summary = table.summarise(load.read([write(tmp_path, rows)]))
    assert summary.varying() == ["a.b"] and summary.groups["a.b"].tolist() == ["flip", "none"]
    assert "c" in summary.constants()


def test_none_stays_text_and_empty_cells_are_missing(tmp_path):
    rows = load.read([write(tmp_path, [row(tasks="1", terms=""), row("b", source="NA", tasks="none", terms="")])])
    assert rows["source"].tolist() == ["none", "NA"] and rows["tasks"].tolist() == ["1", "none"]
    assert rows["terms"].isna().all() and rows["labels_per_class"].isna().all()


def test_each_task_has_its_first_measured_metric(tmp_path):
    regression = row(task="sum", kind="regression") | {"test/accuracy": "", "val/accuracy": ""}
    rows = [row(), regression | {"test/mae": 1.5, "test/mse": 3.0, "val/mae": 1.4}]
    path = write(tmp_path, rows)
    groups = table.summarise(load.read([path])).groups.set_index("task")
    assert groups["metric"].to_dict() == {"digit": "accuracy", "sum": "mae"}
    assert groups.loc["sum", ["test", "val"]].tolist() == [1.5, 1.4]
    summary = table.summarise(load.read([path]), metric="test/accuracy")
    assert summary.groups["task"].tolist() == ["digit"]
    assert summary.notes == ["Task sum of digits is left out: no run measured accuracy; it has mae, mse."]
    with pytest.raises(ConfigError, match=r"Unknown metric 'acuracy'.* Did you mean 'accuracy'\? Known: accuracy, mae"):
        table.summarise(load.read([path]), metric="acuracy")


def test_a_run_without_the_metric_is_not_counted(tmp_path):
    summary = table.summarise(load.read([write(tmp_path, [row(), row(seed=1, test="", val="")])]))
    assert summary.groups["n"].tolist() == [1]
    assert summary.notes == ["Task digit of digits: 1 of 2 finished runs have no accuracy; n counts the others."]


def test_failed_rows_are_said_and_not_averaged(tmp_path):
    rows = [row(test=0.5), failed(seed=1, error="loss is nan\nTraceback"), failed(seed=2, error="loss is nan")]
    summary = table.summarise(load.read([write(tmp_path, [*rows, row(seed=3, status="interrupted", test=0.1)])]))
    assert summary.groups[["n", "test"]].values.tolist() == [[1, 0.5]]
    assert summary.notes == [
        "3 rows not averaged: 2 failed, 1 interrupted.",
        "20260101-000000_linear_probe_0.01___1: loss is nan",
    ]


def test_the_same_config_twice_counts_once(tmp_path):
    rows = [row(test=0.1), row(test=0.7, run_id="20270101"), failed(run_id="20280101"), row(seed=1, test=0.9)]
    summary = table.summarise(load.read([write(tmp_path, rows)]))
    assert summary.groups["n"].tolist() == [2] and summary.groups["test"].iloc[0] == pytest.approx(0.8)
    assert summary.notes == [
        "2 runs left out: the same config and seed ran again, and the newest finished run counts once."
    ]


def test_folders_links_and_rows_seen_twice(tmp_path):
    write(tmp_path / "runs" / "a", [row()])
    sweep = write(tmp_path / "sweeps" / "s" / "1", [row(), row(seed=1)])
    write(sweep / "below", [row(seed=2)])  # the sweep's own file speaks for it
    (tmp_path / "latest").symlink_to(sweep)
    assert len(load.read([tmp_path])) == 2
    assert load.read([tmp_path / "latest"])["seed"].tolist() == [0, 1]
    assert len(load.read([tmp_path / "runs" / "a" / "results.csv", tmp_path])) == 2
    write(tmp_path / "runs" / "b", [failed(seed=1)])
    assert load.read([tmp_path / "runs", sweep])["status"].tolist() == ["done", "done"]


def test_rename(tmp_path):
    path = write(tmp_path, [{("method" if name == "strategy" else name): cell for name, cell in row().items()}])
    text = (path / "results.csv").read_text().replace(",strategy,", ",unused,", 1)
    (path / "results.csv").write_text(text)
    assert load.read([path], {"method": "strategy"})["strategy"].tolist() == ["linear_probe"]
    with pytest.raises(ConfigError, match=r"Unknown key 'methd' in --rename .* Did you mean 'method'\?"):
        load.read([path], {"methd": "strategy"})
    with pytest.raises(ConfigError, match="expected each column once, found model more than once"):
        load.read([path], {"method": "model"})


GOOD = "run_id,config_hash,group_id,status,dataset,task,test/accuracy\nr,c,g,done,d,t,0.5\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found an empty file"),
        (b"a,b\n1,2\n", "expected a column with a metric, .* Found the columns a, b. Name yours"),
        (GOOD.splitlines()[0].encode(), "found only column names"),
        (GOOD.encode() + b"x,y\n", "results.csv, line 3: expected 7 cells, one for each column, found 2"),
        (GOOD.encode() + b'"x,y\n', "results.csv, line 3: expected cells with commas"),
        (GOOD.encode() + b"\nr,c,g,done,d,u,high\n", "line 4, column test/accuracy: expected a number .* found 'high'"),
        (b"\xff\xfe\x00\x80", "found other bytes"),
    ],
)
def test_files_that_are_no_results(tmp_path, content, message):
    (tmp_path / "results.csv").write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load.read([tmp_path])
    assert str(tmp_path / "results.csv") in str(caught.value) and caught.value.exit_code == 2


def test_paths_without_results(tmp_path):
    with pytest.raises(ConfigError, match="found nothing at"):
        load.read([tmp_path / "no"])
    with pytest.raises(ConfigError, match="or in a folder below it, found none"):
        load.read([tmp_path])
    (tmp_path / "latest").symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match=r"a link to .*gone, which is gone"):
        load.read([tmp_path / "latest"])


ROWS = keys.clean(
    pd.DataFrame(
        [
            row(run_id="1", lr=0.01, labels_per_class=5, overrides="a.b=flip"),
            row("finetune_all", run_id="2", lr=0.001, labels_per_class=50),
            row("from_scratch", run_id="3", lr=0.0005, labels_per_class=""),
        ]
    )
)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("strategy == linear_probe", "1"),
        ("strategy != 'linear_probe'", "23"),
        ("strategy in finetune_all, from_scratch", "23"),
        ("strategy in [linear_probe]", "1"),
        ("strategy ~ FINE", "2"),
        ("strategy > finetune_all", "13"),
        ("lr<1e-2", "23"),
        ("optimizer.lr >= 0.001", "12"),
        ("lr == 1e-2", "1"),
        ("lr in 0.0100, 5e-4", "13"),
        ("labels_per_class > 4", "12"),
        ("labels_per_class != 5", "23"),
        ("labels_per_class == all", "3"),
        ("a.b == flip", "1"),
        ("a.b == ''", "23"),
    ],
)
def test_filter(text, kept):
    assert "".join(filters.apply(ROWS, [filters.parse(text)])[0]["run_id"]) == kept


@pytest.mark.parametrize("text", ["strategy", "strategy = x", "== x", "a === b", "in x", "__import__('os')", ""])
def test_filters_of_another_form(text):
    with pytest.raises(ConfigError, match="Expected --filter to be KEY OP VALUE"):
        filters.parse(text)


def test_filters_are_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "__import__('os').mkdir('pwned')"
    with pytest.raises(
        ConfigError, match=r"No row passes .* Found in strategy: finetune_all, from_scratch, linear_probe"
    ):
        filters.apply(ROWS, [filters.parse(f"strategy == {code}")])
    with pytest.raises(ConfigError, match=r"Unknown key '__import__\('os'\).mkdir\('pwned'\)' in --filter"):
        filters.apply(ROWS, [filters.parse(f"{code} == 1")])
    with pytest.raises(ConfigError, match="lr holds numbers; expected one after <, found 'True or 1'"):
        filters.apply(ROWS, [filters.parse("lr < True or 1")])
    assert not list(tmp_path.iterdir())


def test_a_filter_on_a_result_is_admitted():
    with pytest.raises(ConfigError, match=r"Unknown key 'strtegy' in --filter. Did you mean 'strategy'\?"):
        filters.apply(ROWS, [filters.parse("strtegy == x")])
    assert filters.apply(ROWS, [filters.parse("test/accuracy > 0")])[1] == [
        "Runs were chosen by test/accuracy, which they measured: means over what is left are biased."
    ]


def test_over_chooses_by_validation_where_test_disagrees(tmp_path):
    rows = [row(seed=s, lr=lr, val=v, test=t) for s in (0, 1) for lr, v, t in [(0.1, 0.9, 0.5), (0.01, 0.8, 0.99)]]
    rows += [row("finetune_all", lr=lr, val=v, test=t) for lr, v, t in [(0.1, 0.2, 0.9), (0.01, 0.3, 0.1), (1, 0.1, 1)]]
    for key in ("lr", "optimizer.lr"):
        summary = table.summarise(load.read([write(tmp_path, rows)]), over=[key])
        chosen = summary.groups.set_index("strategy")[["lr", "val", "test"]]
        assert chosen.loc["linear_probe"].tolist() == [0.1, 0.9, 0.5]
        assert chosen.loc["finetune_all"].tolist() == [0.01, 0.3, 0.1]
        assert summary.varying() == ["strategy", "lr"]
        assert summary.notes == [
            "lr chosen by validation, never by test: each row from 2 to 3 candidates.",
            "Unequal n: finetune_all (n = 1, without seed 1), where others have up to 2.",
        ]


def test_over_minimises_errors_and_takes_keys_of_overrides(tmp_path):
    rows = [row(overrides=f"x.y={y}; z=1") | {"val/mae": mae, "test/mae": 2.0} for y, mae in [(1, 0.5), (2, 0.4)]]
    summary = table.summarise(load.read([write(tmp_path, rows)]), metric="mae", over=["x.y"])
    assert summary.groups[["x.y", "val"]].values.tolist() == [[2, 0.4]] and summary.varying() == ["x.y"]


def test_over_says_what_it_cannot_do(tmp_path):
    rows = load.read([write(tmp_path, [row(lr=0.1), row("b", lr=0.2), row("c", lr=0.2, val="")])])
    notes = table.summarise(rows, over=["strategy"]).notes
    assert "Nothing was left to choose, since the groups also differ in lr." in notes
    assert "1 candidate without a validation metric could not be chosen." in notes
    with pytest.raises(ConfigError, match=r"Unknown key 'strategi' in --over. Did you mean 'strategy'\?"):
        table.summarise(rows, over=["strategi"])
    with pytest.raises(ConfigError, match="seed is not one to choose"):
        table.summarise(rows, over=["seed"])
    with pytest.raises(ConfigError, match="no run measured its metric there"):
        table.summarise(rows[rows["strategy"] == "c"], over=["lr"])


@pytest.mark.parametrize(("metric", "sign"), [("accuracy", 1), ("r2", 1), ("mae", -1), ("ece", -1), ("rmse_log", -1),
                                               ("top1-error", -1), ("error rate", -1), ("terror", 1)])  # fmt: skip
def test_directions(metric, sign):
    assert metrics.sign(metric) == sign


FIGURES = st.floats(0, 1, allow_subnormal=False)
DRAWN = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 4), st.sampled_from([0.1, 0.01]), FIGURES, FIGURES),
    min_size=1, max_size=12, unique_by=lambda drawn: drawn[:3],
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(data=st.data(), drawn=DRAWN, over=st.sampled_from([[], ["lr"], ["strategy", "lr"]]))
def test_the_order_of_rows_does_not_matter(data, drawn, over):
    rows = [row(s, seed, test, val, lr=lr) for s, seed, lr, test, val in drawn]
    mixed = data.draw(st.permutations(rows))
    one, other = (table.summarise(pd.DataFrame(each), over=over) for each in (rows, mixed))
    pd.testing.assert_frame_equal(one.groups, other.groups, check_exact=True)
    assert one.notes == other.notes
