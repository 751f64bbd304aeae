"""What `tlmtl compare` prints, writes and draws. What it computes: `test_compare.py`."""

import io
import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from rich.cells import cell_len
from rich.console import Console
from test_compare import failed, row, write

from tlmtl.compare import command, formats, load, output, plot, printed, table
from tlmtl.errors import ConfigError


@pytest.fixture
def sweep(tmp_path):
    """Two strategies at 5 and 50 labels per class, three seeds each, and a run that failed."""
    rows = [
        row(s, seed, base + n / 500 + seed / 100, base + n / 500, labels_per_class=n, source="mnist", epochs=20,
            optimizer="adamw", peak_memory_mb=12.34, seconds_per_step=0.0123, overrides="dataset.augment=flip")
        for s, base in [("linear_probe", 0.6), ("finetune_all", 0.7)] for n in (5, 50) for seed in range(3)
    ]  # fmt: skip
    return write(tmp_path / "sweep", [*rows, failed(seed=9, labels_per_class=5, error="bad [/luck]")])


def run(capsys, *argv) -> tuple[str, str]:
    assert command.main([str(word) for word in argv]) == 0
    return capsys.readouterr()


def in_terminal(path, width: int, chosen: list[str] | None = None) -> list[str]:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    table.draw(table.summarise(load.read([path])), console, chosen)
    return console.file.getvalue().splitlines()


def test_plain_table(sweep, capsys):
    out, err = run(capsys, sweep)
    lines = out.splitlines()
    assert lines[0].startswith("dataset digits · task digit · kind classification · model small_cnn · source mnist")
    assert lines[0].endswith("dataset.augment flip") and "tasks" not in lines[0]
    assert lines[2].split()[:6] == ["strategy", "per", "class", "n", "test/accuracy", "val/accuracy"]
    assert lines[4].split()[:9] == ["finetune_all", "5", "3", "0.7200", "±", "0.0100", "0.7100", "±", "0.0000"]
    assert lines[-2:] == ["1 row not averaged: 1 failed.", "20260101-000000_linear_probe_0.01__5_9: bad [/luck]"]
    assert "\x1b" not in out and err == ""


def test_one_repeat_shows_no_deviation_and_no_limit_shows_all(tmp_path, capsys):
    out, _ = run(capsys, write(tmp_path, [row(), row("b", labels_per_class=5)]))
    cells = next(line for line in out.splitlines() if line.startswith("linear_probe")).split()
    assert cells == ["linear_probe", "all", "1", "0.9000", "0.8000", "2", "650"]


@pytest.mark.parametrize("width", [60, 70, 80, 100, 200])
def test_terminals_of_any_width(sweep, width):
    lines = in_terminal(sweep, width)
    text = "\n".join(lines)
    assert max(map(cell_len, lines)) <= width
    for needed in ("finetune_all", "0.7200 ± 0.0100", "0.8000 ± 0.0000", "val/accuracy"):
        assert needed in text
    if width == 200:
        assert "12.3" in text and "Left out" not in text
    if width <= 70:
        assert "12.3" not in text and "parameters_trained. To see one: --columns" in " ".join(map(str.strip, lines))


def test_a_very_narrow_terminal_folds_settings_into_one_column(tmp_path):
    rows = [
        row(s, source=f"source_{s}", labels_per_class=n, lr=n / 1000) for s in ("finetune_all", "probe") for n in (1, 5)
    ]
    lines = in_terminal(write(tmp_path, rows), 50)
    text = " ".join(lines)
    assert max(map(len, lines)) <= 50
    assert "source · strategy" in text and "source_probe" in text and "0.9000" in text and "0.005" in text


def test_chosen_columns_are_never_dropped(sweep, capsys):
    out, _ = run(capsys, sweep, "--columns", "strategy,peak_memory_mb,test/accuracy", "--filter", "labels_per_class==5")
    assert "finetune_all       12.3  0.7200 ± 0.0100" in out
    assert "12.3" in "".join(in_terminal(sweep, 60, ["strategy", "peak_memory_mb", "test"]))
    with pytest.raises(ConfigError, match=r"Unknown key 'stratgy' in --columns. Did you mean 'strategy'\?"):
        command.main([str(sweep), "--columns", "stratgy"])


def test_two_metrics_get_a_column_for_their_name(tmp_path, capsys):
    other = row(task="sum", kind="regression", tasks="digit,sum") | {
        "test/accuracy": "",
        "val/accuracy": "",
        "test/mae": 12.3456,
    }
    out, _ = run(capsys, write(tmp_path, [row(tasks="digit,sum"), other]))
    rows = [line.split() for line in out.splitlines() if line.startswith(("task ", "digit ", "sum "))]
    assert [line[:5] for line in rows[1:]] == [
        ["digit", "accuracy", "1", "0.9000", "0.8000"],
        ["sum", "mae", "1", "12.35", "2"],
    ]
    assert "kind" not in out.split("\n", 1)[1]  # it follows from the task


def test_csv_and_json_keep_full_precision(sweep, capsys):
    out, err = run(capsys, sweep, "--format", "csv")
    read = pd.read_csv(io.StringIO(out)).set_index(["strategy", "labels_per_class"])
    summary = table.summarise(load.read([sweep])).groups.set_index(["strategy", "labels_per_class"])
    for name, theirs in [("test_mean", "test"), ("test_sd", "test_sd"), ("val_mean", "val"), ("n", "n")]:
        assert read[name].tolist() == summary[theirs].tolist()
    assert read["dataset.augment"].tolist() == ["flip"] * 4
    assert err.startswith("1 row not averaged")
    records = json.loads(run(capsys, sweep, "--format", "json")[0])
    assert [(one["strategy"], one["labels_per_class"], one["test_mean"]) for one in records] == [
        (strategy, labels, test) for (strategy, labels), test in summary["test"].items()
    ]
    assert isinstance(records[0]["labels_per_class"], int)


def test_missing_figures_are_null_in_json(tmp_path, capsys):
    (record,) = json.loads(run(capsys, write(tmp_path, [row()]), "--format", "json")[0])
    assert record["test_sd"] is None and record["test_mean"] == 0.9 and record["metric"] == "accuracy"


def test_markdown(sweep, capsys):
    lines = run(capsys, sweep, "--format", "md", "--columns", "strategy,labels_per_class,test")[0].splitlines()
    assert lines[2:5] == [
        "| strategy | labels_per_class | test/accuracy |",
        "| --- | --- | ---: |",
        "| finetune_all | 5 | 0.7200 ± 0.0100 |",
    ]


def test_latex(sweep, capsys):
    out, _ = run(capsys, sweep, "--format", "latex", "--columns", "strategy,labels_per_class,test")
    assert r"\begin{tabular}{llr}" in out
    assert r"finetune\_all & 5 & 0.7200 $\pm$ 0.0100 \\" in out
    assert r"strategy & labels\_per\_class & test/accuracy \\" in out


def test_sort_and_top(sweep, capsys):
    def shown(*flags):
        out, err = run(capsys, sweep, "--format", "csv", "--columns", "strategy,labels_per_class", *flags)
        return [tuple(line.split(",")) for line in out.splitlines()[1:]], err

    assert shown("--sort", "-test")[0][0] == ("finetune_all", "50")
    assert shown("--sort", "val")[0][0] == ("linear_probe", "5")
    assert shown("--sort=-labels_per_class")[0][:2] == [("finetune_all", "50"), ("linear_probe", "50")]
    rows, err = shown("--top", "1")
    assert rows == [("finetune_all", "50")] and "1 of 4 rows: the first 1 of each task, by validation." in err
    assert "picked by their test figures" in shown("--top", "2", "--sort", "-test")[1]
    with pytest.raises(ConfigError, match=r"Unknown key 'tets' in --sort. Did you mean 'test'\?"):
        shown("--sort", "-tets")


def test_out_is_whole_or_not_there(sweep, tmp_path, capsys):
    target = tmp_path / "table.md"
    out, err = run(capsys, sweep, "--out", target)  # the suffix names the format
    assert out == "" and f"Written to {target}." in err
    assert "| finetune_all | 5 | 3 | 0.7200 ± 0.0100 |" in target.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep", "table.md"]
    for wrong in (tmp_path, target / "x.csv", tmp_path / "none" / "x.csv"):
        with pytest.raises(ConfigError, match="Expected a file that can be written, found"):
            command.main([str(sweep), "--out", str(wrong), "--format", "csv"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep", "table.md"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "table.csv"
    target.write_text("old")

    def no_rename(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_rename)
    with pytest.raises(ConfigError, match="No space left on device"):
        output.write(target, b"new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("flags", [[], ["--filter", "labels_per_class == 5"]], ids=["lines", "bars"])
def test_plots(sweep, tmp_path, capsys, flags):
    for suffix, start in [(".png", b"\x89PNG\r\n"), (".svg", b"<?xml"), (".pdf", b"%PDF")]:
        out, _ = run(capsys, sweep, "--plot", tmp_path / f"figure{suffix}", *flags)
        assert f"Figure written to {tmp_path / f'figure{suffix}'}." in out
        content = (tmp_path / f"figure{suffix}").read_bytes()
        assert content.startswith(start) and len(content) > 3000
    text = (tmp_path / "figure.svg").read_text()
    for label in (
        "finetune_all",
        "linear_probe",
        "test accuracy",
        "n = 3",
        *(["labels per class"] if not flags else []),
    ):
        assert label in text


def test_plots_of_several_tasks_and_of_all_labels(tmp_path):
    rows = [
        row(task=task, labels_per_class=n, seed=seed) for task in ("left", "right") for n in (1, "") for seed in (0, 1)
    ]
    summary = table.summarise(load.read([write(tmp_path, rows)]))
    plot.draw(summary, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert ">left<" in text and ">right<" in text and ">all<" in text
    with pytest.raises(ConfigError, match=r"ending in .png, .svg, .pdf; found 'a.gif'"):
        command.main([str(tmp_path), "--plot", "a.gif"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "expected a PATH"),
        (["--over", "lr", "x"], "give it before --over"),
        (["x", "--top", "0"], "expected a number of rows, 1 or more, found '0'"),
        (["x", "--rename", "a"], "expected theirs=ours, found 'a'"),
        (["x", "--format", "xml"], "invalid choice: 'xml'"),
        (["x", "--columns", ","], "expected one name or more"),
        (["x", "--metrics", "a"], "unrecognized arguments"),
    ],
)
def test_wrong_flags(argv, message, capsys):
    with pytest.raises(SystemExit) as caught:
        command.main(argv)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_flags_in_any_position(sweep, tmp_path, capsys):
    more = write(tmp_path / "more", [row("third", labels_per_class=5)])
    out, _ = run(capsys, "--format", "csv", sweep, "--columns", "strategy", more, "--over", "optimizer.lr")
    assert out.split() == ["strategy", "finetune_all", "finetune_all", "linear_probe", "linear_probe", "third"]


@pytest.mark.parametrize(
    ("largest", "places"), [(0.9, 4), (1.0, 4), (0.02, 4), (1.5, 3), (12.3, 2), (12345.0, 0), (0.00012, 7), (0.0, 4)]
)
def test_decimals(largest, places):
    assert printed.places(largest) == places


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123, "0.0123"),
        (12.34, "12.3"),
        (650, "650"),
        (1290, "1,290"),
        (23456, "23.5k"),
        (11.2e6, "11.2M"),
        (3e9, "3.0G"),
    ],
)
def test_costs(value, text):
    assert printed.cost(value) == text


def test_show_prints_rows_of_a_sweep(capsys):
    rows = [row(seed=seed, labels_per_class=None, overrides=None, test=0.9 + seed / 10) for seed in (0, 1)]
    table.show(pd.DataFrame([*rows, failed(seed=2, error="Boom") | {"test/accuracy": None, "val/accuracy": None}]))
    out = capsys.readouterr().out
    assert "0.9500 ± 0.0707" in out and "1 row not averaged: 1 failed." in out and "Boom" in out


def test_ten_thousand_runs_in_three_seconds(tmp_path):
    rows = [row(f"s{n % 50}", n // 50, test=n / 10_000, lr=n % 7) for n in range(10_000)]
    path = write(tmp_path, rows)
    start = time.process_time()  # of this process alone, whatever else the machine does
    text = formats.render(table.summarise(load.read([path]), over=["lr"]), "table")
    assert time.process_time() - start < 3 and "s49" in text
    summary = table.summarise(load.read([path]), baseline=[("strategy", "s0")])
    assert summary.groups["pairs"].notna().sum() == 49
    assert time.process_time() - start < 6


def test_neither_torch_nor_hydra_is_imported(sweep):
    code = (
        "import sys; from tlmtl.compare import command; early = set(sys.modules); command.main([sys.argv[1]]);"
        "assert not {'pandas', 'rich'} & early, early;"
        "assert not {'torch', 'hydra', 'omegaconf', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, sweep], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0.7200 ± 0.0100" in done.stdout


def test_no_run_finished(tmp_path, capsys):
    assert command.main([str(write(tmp_path, [failed(error="out of memory")]))]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "No finished run with a metric to compare.",
        "1 row not averaged: 1 failed.",
        "20260101-000000_linear_probe_0.01___0: out of memory",
    ]


def test_one_config_on_other_data_is_no_repeat(tmp_path, capsys):
    """`dataset.root=imgs` in two folders is one config and two experiments."""
    here = [row(seed=seed, test=0.9, data_hash="aaa", run_id=f"1_{seed}") for seed in (0, 1)]
    there = [row(seed=seed, test=0.5, data_hash="bbb", run_id=f"2_{seed}") for seed in (0, 1)]
    write(tmp_path / "here", here), write(tmp_path / "there", there)
    assert command.main([str(tmp_path / "here"), str(tmp_path / "there")]) == 0
    said = capsys.readouterr().out
    assert "aaa" in said and "bbb" in said and "0.9000" in said and "0.5000" in said
    assert "kept apart by data_hash" in said and "left out" not in said
