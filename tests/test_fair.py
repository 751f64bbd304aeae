"""Equal budgets: each method gets the same trials, what validation chose is run with seeds that chose nothing."""

import csv
import json
from pathlib import Path

import pytest
from conftest import nothing_written, refused
from test_search import killed_when

from tlmtl.columns import MEASURED
from tlmtl.commands import as_space

FAIR = ["train", "-m", "+experiment=fair", "sweep.name=it", "source.train.epochs=1st", "progress=false"]
TWO = ["strategy=from_scratch,linear_probe", "train.epochs=2", "train.evaluate_every=50%", "tune.seeds=[1,2]"]


def table(cwd: Path, file: str, name: str = "it") -> list[dict[str, str]]:
    return list(csv.DictReader((cwd / "outputs/sweeps" / name / file).open()))


def decided(cwd: Path, name: str) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in [*MEASURED, "run_id"]} for row in table(cwd, "results.csv", name)]


def tuned(cwd: Path, name: str = "it") -> dict[str, list[dict[str, str]]]:
    """Trials by method."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in table(cwd, "tuning.csv", name):
        found.setdefault(row["method"], []).append(row)
    return found


@pytest.mark.slow
def test_two_methods_three_trials_two_seeds(main, tmp_path):
    command = [*FAIR, *TWO, "tune.space.optimizer.weight_decay=null", "tune.space.train.batch_size=range(16,49,16)"]
    one = main(*command, "tune.trials=1")
    assert one.code == 0, one.all
    before = {row["strategy"]: row["group_id"] for row in table(tmp_path, "results.csv")}

    done = main(*command, "tune.trials=3")
    assert done.code == 0, done.all
    methods = tuned(tmp_path)
    assert list(methods) == ["strategy=from_scratch", "strategy=linear_probe"]
    drawn = [
        [(row["trial"], row["optimizer.lr"], row["train.batch_size"]) for row in rows] for rows in methods.values()
    ]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 3  # one space, the same points
    assert {row["state"] for rows in methods.values() for row in rows} == {"done"}

    rows = table(tmp_path, "results.csv")
    assert [(row["strategy"], row["seed"]) for row in rows] == [
        ("from_scratch", "1"), ("from_scratch", "2"), ("linear_probe", "1"), ("linear_probe", "2"),
    ]  # fmt: skip
    for strategy, trials in (("from_scratch", drawn[0]), ("linear_probe", drawn[1])):
        scores = [float(row["score"]) for row in methods[f"strategy={strategy}"]]
        best = trials[scores.index(max(scores))]
        mine = [row for row in rows if row["strategy"] == strategy]
        assert {(row["lr"], row["batch_size"]) for row in mine} == {best[1:]}
        spent = sum(float(row["seconds"]) for row in methods[f"strategy={strategy}"])
        line = next(line for line in done.out.splitlines() if line.startswith(f"strategy={strategy} "))
        assert line.split()[1:4] == ["3", "0", f"{spent:.1f}"] and f"optimizer.lr={best[1]}" in line
    # what was chosen from one trial alone and is not chosen any more lies with the trials, not in the table
    after = {row["strategy"]: row["group_id"] for row in rows}
    changed = [strategy for strategy in after if after[strategy] != before[strategy]]
    assert changed  # else this test shows nothing: take other trials
    kept = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/sweeps/it/trials/*/run.json")]
    assert {before[strategy] for strategy in changed} <= {record["group_id"] for record in kept}
    assert "is at the edge of the space" in done.err  # of three batch sizes two are

    compared = main("compare", "outputs/sweeps/it", "--format", "csv")
    shown = list(csv.DictReader(compared.out.splitlines()))
    assert [(row["strategy"], row["n"]) for row in shown] == [("from_scratch", "2"), ("linear_probe", "2")]
    again = main(*command, "tune.trials=3")
    assert again.code == 0 and "4 run(s) with fresh seeds, 0 to do" in again.err
    assert again.out == done.out


def test_a_method_of_which_nothing_finished_has_no_row_and_costs_only_itself(main, tmp_path):
    words = ["strategy=from_scratch", "train.epochs=1", "tune.trials=2", "tune.seeds=[1]", "tune.space.optimizer=null"]
    done = main(*FAIR, *words, "tune.space.optimizer.lr=1e30,1e35")
    assert done.code == 1 and "Traceback" not in done.all
    assert "No trial of strategy=from_scratch has finished, so it has no row." in done.err
    assert {row["state"] for row in table(tmp_path, "tuning.csv")} == {"failed"}
    assert "became" in table(tmp_path, "tuning.csv")[0]["note"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tune.seeds=[0,1]"], "'tune.seeds' holds 0, the seed that settings are chosen with"),
        (["tune.seeds=[1,1]"], "each once, such as [1,2,3]. Found [1, 1]"),
        (["tune.seeds=[]"], "'tune.seeds' should be seeds"),
        (["seed=0,1"], "'seed' cannot be swept with tune.trials"),
        (["tune.trials=2,3"], "'tune.trials' cannot be swept"),
        (["tune.trials=0"], "'tune.trials' should be 1 or more. Found 0"),
        (["optimizer.lr=0.1"], "tune.space.optimizer.lr=null leaves it to the command line"),
        (["tune.space=null"], "tune.space"),
        (["tune.space.optimizer=null"], "'tune.space' is empty"),
        (["tune.space.optimizer.lr=0.1"], "'tune.space.optimizer.lr' should be a list"),
        (["tune.space.optimizer.lr=interval(1,0)"], "'optimizer.lr=interval(1,0)' cannot be drawn from"),
        (["tune.space.optimiser.lr=interval(0,1)"], "Unknown key 'optimiser.lr'"),
        (["tune.space.seed=1,2"], "'seed' cannot be searched"),
        (["tune.sampler=grid"], "A grid needs values that can be counted"),
        (["tune.sampler=rand"], "'tune.sampler' should be one of tpe, random"),
    ],
)
def test_what_is_wrong_is_told_before_the_first_run(main, tmp_path, words, said):
    refused(main(*FAIR, "strategy=from_scratch,finetune_all", *words), said)
    nothing_written(tmp_path)


def test_trials_without_a_sweep_are_refused(main):
    refused(main("train", "tune.trials=3"), "tune.trials=3 makes a sweep of trials and runs: add -m")


@pytest.mark.slow
def test_a_dry_run_says_how_much_there_is_to_do(main, tmp_path):
    said = main(*FAIR, *TWO, "tune.trials=7", "sweep.dry_run=true", "tune.space.train.batch_size=16,32")
    assert said.code == 0 and "14 trial(s) at most, then 4 run(s)" in said.out
    assert "train.batch_size: 16, 32" in said.err and "optimizer.lr: 0.0001 to 0.1, log scale" in said.err
    nothing_written(tmp_path)


def test_a_space_on_the_command_line_is_not_swept():
    assert as_space("tune.space.a.b=interval(1,2)") == '++tune.space.a.b="interval(1,2)"'
    assert as_space("+tune.space.a=x,y") == '++tune.space.a="x,y"'
    assert as_space("tune.space.a=[x,y]") == "++tune.space.a=[x,y]"
    assert as_space("tune.trials=2,3") == "tune.trials=2,3"


@pytest.mark.slow
def test_killed_anywhere_it_ends_like_one_that_was_not(main, tmp_path):
    command = [*FAIR[:3], *FAIR[4:], *TWO[:1], "train.epochs=40", "tune.seeds=[1,2]", "tune.trials=3"]
    assert main(*command, "sweep.name=whole").code == 0
    folder = tmp_path / "outputs/sweeps/it"
    mine = [*command, "sweep.name=it"]
    killed_when(mine, tmp_path, lambda: len(list(folder.glob("trials/*/checkpoint/*.pt"))) >= 1)
    killed_when(mine, tmp_path, lambda: len(list(folder.glob("trials/*/run.json"))) >= 5)
    killed_when(mine, tmp_path, lambda: len(list(folder.glob("*/checkpoint/*.pt"))) >= 1)
    assert main(*mine).code == 0
    assert decided(tmp_path, "it") == decided(tmp_path, "whole") and len(decided(tmp_path, "it")) == 4
    kept = ["method", "trial", "state", "score", "optimizer.lr", "run"]
    whole, parts = ([[row[key] for key in kept] for row in table(tmp_path, "tuning.csv", n)] for n in ("whole", "it"))
    assert parts == whole
