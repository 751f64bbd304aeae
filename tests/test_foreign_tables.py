"""`tlmtl compare` on CSVs of other programs: what is taken for what, and what is said of it."""

import math

import pandas as pd
import pytest
from test_compare import row, write

from tlmtl.compare import command, keys, load, table
from tlmtl.errors import ConfigError

NAMES = {"acc": "test/accuracy", "seed_id": "seed", "method": "strategy"}
FLAGS = [word for theirs, ours in NAMES.items() for word in ("--rename", f"{theirs}={ours}")]


def lines(gain: float = 0.02) -> list[str]:
    """Two methods at two learning rates, three seeds each, with a name and a measured time in every row."""
    found = ["method,lr,seed_id,acc,wall,run_name"]
    for at, (method, base) in enumerate([("ours", 0.9 + gain), ("theirs", 0.9)]):
        for rate, lr in enumerate((0.1, 0.01)):
            for seed in range(3):
                acc, wall = base + seed / 1000 * (1 + at) + rate / 100, 1.5 + at + rate * 3 + seed / 7
                found.append(f"{method},{lr},{seed},{acc:.4f},{wall:.4f},{method}-{lr}-{seed}")
    return found


@pytest.fixture
def theirs(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text("\n".join(lines()) + "\n")
    return path


def test_a_metric_and_a_seed_are_enough(theirs, capsys):
    assert command.main([str(theirs), *FLAGS, "--baseline", "strategy=theirs"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.startswith(("ours", "theirs"))]
    assert [line[:4] for line in rows[:4]] == [["ours", "0.01", "3", "0.9310"], ["ours", "0.1", "3", "0.9210"],
                                          ["theirs", "0.01", "3", "0.9120"], ["theirs", "0.1", "3", "0.9020"]]  # fmt: skip
    assert rows[0][6:9] == ["+0.0190", "±", "0.0025"] and rows[2][-1] == "baseline"
    assert "theirs.csv is not a table of tlmtl: every row counts as a finished run" in out
    assert "Filled in: run_id, config_hash, group_id, status, dataset, task." in out
    assert "Columns left out, since they differ in every row: wall, run_name." in out


@pytest.mark.parametrize("between", [";", "\t"])
def test_semicolons_tabs_and_decimal_commas(theirs, tmp_path, between):
    other = tmp_path / "other.csv"
    text = theirs.read_text().replace(",", between).replace(".", ",")
    other.write_text(text, encoding="utf-8-sig")  # as a spreadsheet saves it
    one, same = (table.summarise(load.read([path], NAMES)).groups for path in (theirs, other))
    assert same[["lr", "test", "n"]].values.tolist() == one[["lr", "test", "n"]].values.tolist()


@pytest.mark.parametrize("form", ["table", "md", "latex"])
def test_cells_that_break_lines_or_steer_a_terminal(tmp_path, capsys, form):
    path = tmp_path / "t.csv"
    path.write_text('strategy,seed,test/accuracy\n"two\nlines\x1b[31m",0,.5\nother,0,.6\n')
    assert command.main([str(path), "--format", form]) == 0
    out = capsys.readouterr().out
    assert "two lines [31m" in out and "\x1b" not in out


def test_an_error_keeps_its_lines(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('strategy,seed,test/accuracy,error\na,0,.5,"first\n\x1b[0msecond"\n')
    assert load.read([path])["error"].tolist() == ["first\n [0msecond"]


def test_unknown_columns_are_settings(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("width,test/mae,seed\n64,1.5,0\n64,1.7,1\n128,1.2,0\n")
    rows, notes = load.read_noted([path])
    groups = table.summarise(rows, baseline=[("width", "64")]).groups
    assert groups[["width", "n"]].values.tolist() == [["128", 1], ["64", 2]]
    assert groups["difference"].iloc[0] == pytest.approx(-0.3)
    assert "Columns taken for settings: width. If one is a metric: --rename NAME=test/NAME." in notes


def test_without_seeds_rows_are_repeats_and_no_pairs(theirs, capsys):
    assert command.main([str(theirs), "--rename", "acc=test/accuracy", "--filter", "method == ours"]) == 0
    assert (
        "No column is called seed: rows can't be paired with a baseline. Is it seed_id? --rename seed_id=seed."
        in capsys.readouterr().out
    )


def test_two_files_are_told_apart(theirs, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("\n".join(lines(0.5)) + "\n")
    groups = table.summarise(load.read([theirs, other], NAMES)).groups
    assert groups["n"].tolist() == [3] * 8 and set(groups["file"]) == {"theirs", "other"}


def test_beside_our_own(theirs, tmp_path):
    ours = write(tmp_path / "ours", [row(seed=seed) for seed in range(3)])
    groups = table.summarise(load.read([ours, theirs], NAMES)).groups
    assert groups["dataset"].value_counts().to_dict() == {"unnamed": 4, "digits": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method,acc,seed\na,0.5,0\n", "Found the columns method, acc, seed. Name .* --rename acc=test/acc\\.$"),
        ("method,test_F1,run\na,0.5,0\n", "such as --rename test_F1=test/f1 --rename theirs=seed"),
        ("a,test/x\n1,0.5\n2,fast\n", "line 3, column test/x: expected a number or nothing, found 'fast'"),
        ("a,test/x\n1,0.5\n2\n", "line 3: expected 2 cells, one for each column, found 1"),
        ("a,test/x,a\n1,0.5,2\n", "expected each column once, found a more than once"),
        ("a,test/x\n", "found only column names"),
        ("\n\n", "found an empty file"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load.read([path])
    assert str(path) in str(caught.value) and caught.value.exit_code == 2


def test_names_that_clash(theirs, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("acc,test/accuracy,seed\n0.5,0.6,0\n")
    with pytest.raises(
        ConfigError, match=r"found test/accuracy more than once. The file has a column of that name: rename"
    ):
        load.read([path], {"acc": "test/accuracy"})


def test_binary_files(tmp_path):
    for name, content in [
        ("a.csv", b"\x00\x01\x02\xff\xfe"),
        ("b.csv", b"\x89PNG\r\n\x1a\n\x00"),
        ("c.csv", b"a,b\x00c\n1,2\n"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=name):
            load.read([tmp_path / name])


def test_infinite_and_missing_figures_are_not_averaged(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("method,test/mae,seed\na,1.5,0\na,inf,1\na,nan,2\na,2.5,3\n")
    summary = table.summarise(load.read([path]))
    assert summary.groups[["n", "test"]].values.tolist() == [[2, 2.0]] and math.isfinite(
        summary.groups["test_sd"].iloc[0]
    )
    assert "Infinite figures are left out of means and n (test/mae): t.csv:3." in summary.notes
    assert "Task unnamed of unnamed: 2 of 4 finished runs have no mae; n counts the others." in summary.notes


@pytest.mark.parametrize("value", ["/data/a; b/c", 'say "hi"; there', "plain", "a;b"])
def test_overrides_with_semicolons_are_read_as_they_were_written(value):
    import json

    items = [f"dataset.path={value}", "+x.y=1"]
    text = "; ".join(json.dumps(item, ensure_ascii=False) if ";" in item else item for item in items)
    found, names = keys.expand(pd.DataFrame({"overrides": [text]}))
    assert names == ["dataset.path", "x.y"] and found["dataset.path"].iloc[0] == value and found["x.y"].iloc[0] == 1
