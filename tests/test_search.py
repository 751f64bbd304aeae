"""Searching settings: what can be drawn from, what a study remembers, and a search as a user starts it."""

import csv
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TLMTL, nothing_written, refused

from tlmtl.errors import ConfigError
from tlmtl.search import space as spaces
from tlmtl.search.samplers import Sampling, need_optuna, pruner_of
from tlmtl.sweep.plan import Job

need_optuna()

from tlmtl.search.study import Search, open_study  # noqa: E402

LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"
QUICK = ["strategy=from_scratch", "train.epochs=2", "train.evaluate_every=25%", "progress=false"]
SEARCH = ["train", "-m", "hydra/sweeper=optuna", *QUICK, LR]


# ---- what can be drawn from


def test_the_grammar_of_sweeps_says_what_is_drawn_from():
    words = [
        LR,
        "a=interval(1,2)",
        "b=tag(int,interval(1,64))",
        "c=range(1,10)",
        "d=range(0,1,0.25)",
        "e=x,y",
        "f=choice(7)",
    ]
    fixed, space = spaces.parse([*words, "seed=3"], None)
    assert fixed == ["seed=3"]
    assert space.describe() == {
        "optimizer.lr": "0.0001 to 0.1, log scale", "a": "1 to 2", "b": "whole numbers 1 to 64", "c": "whole numbers 1 to 9",
        "d": "0 to 0.75 in steps of 0.25", "e": "x, y", "f": "7",
    }  # fmt: skip
    first, *others = space.corners()
    assert first == {"optimizer.lr": "0.0001", "a": "1.0", "b": "1", "c": "1", "d": "0", "e": "x", "f": "7"}
    assert [one["e"] for one in others].count("y") == 1 and len(others) == 6


def test_the_last_of_two_overrides_counts():
    fixed, space = spaces.parse(["a=1,2", "a=3", "b=1", "b=interval(0,1)"], None)
    assert fixed == ["a=3"] and list(space.of) == ["b"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("a=interval(2,1)", "'low <= high' must hold"),
        ("a=tag(log,interval(0,1))", "'low > 0' must hold"),
        ("a=tag(int,interval(0.5,2))", "whole ends, found 0.5"),
        ("a=tag(lgo,interval(1,2))", "has the tag 'lgo'. Known: log, int"),
        ("a=range(1,1)", "it is empty"),
        ("a=tag(log,choice(1,2))", "the tag log is for range and interval"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(word, said):
    with pytest.raises(ConfigError) as error:
        spaces.parse([word], None)
    assert said in str(error.value) and "a=" in str(error.value)


def test_the_edges_of_a_space_are_told():
    _, space = spaces.parse([LR, "b=interval(0,1)", "c=x,y", "d=range(1,30)"], None)
    assert space.at_edge({"optimizer.lr": "0.00012", "b": "0.0", "c": "x", "d": "15"}) == ["optimizer.lr", "b"]
    assert space.at_edge({"optimizer.lr": "0.002", "b": "0.5", "c": "y", "d": "29"}) == ["d"]


# ---- what a study remembers


def a_search(
    folder: Path, trials: int, sampler="random", words=(LR,), pruner="none", retry=True, seed=0, anew=False, owner=None
):
    """A search whose jobs are folders alone: `run` says what came of them."""
    _, space = spaces.parse(list(words), None)
    study = open_study(f"sqlite:///{folder / 'study.db'}", "it", pruner_of(pruner), anew)

    def make(number, texts):
        key = " ".join(f"{k}={v}" for k, v in sorted(texts.items())).replace("/", "_")
        if "b=bad" in key:
            raise ConfigError("b cannot be bad")
        status = record(folder / key).get("status")
        reason = "" if status == "done" else status or "missing"
        return Job(SimpleNamespace(), f"trial {number}", key, folder / key, 1, reason, steps=100)

    return Search(study, space, Sampling(sampler, seed), trials, make, retry, owner)


def record(folder: Path) -> dict:
    path = folder / "run.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def run(search: Search, job: Job, score=0.5, state="done") -> None:
    job.folder.mkdir(exist_ok=True)
    (job.folder / "run.json").write_text(json.dumps({"status": state, "best_score": score}))
    job.state = state
    search.ended(job)


def run_all(search: Search, score=lambda job: float(job.key.partition("=")[2])) -> list[str]:
    ran = []
    while jobs := search.jobs(1):
        ran.append(jobs[0].key)
        run(search, jobs[0], score(jobs[0]))
    return ran


def settings(search: Search) -> list[dict[str, str]]:
    return [search.entries[number].settings for number in sorted(search.entries)]


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc"])
def test_a_stopped_search_goes_on_as_if_it_had_not_been_stopped(tmp_path, sampler):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    node = {"name": "tpe", "n_startup_trials": 4} if sampler == "tpe" else sampler
    uninterrupted = a_search(whole, 9, node)
    run_all(uninterrupted)
    first = a_search(parts, 5, node)
    for _ in range(4):
        run(first, *(jobs := first.jobs(1)), score=float(jobs[0].key.partition("=")[2]))
    killed = first.jobs(1)[0]  # asked for, never told
    again = a_search(parts, 9, node)
    assert again.jobs(1)[0].key == killed.key
    run(again, again.entries[4].job, score=float(killed.key.partition("=")[2]))
    run_all(again)
    assert settings(again) == settings(uninterrupted) and len(settings(again)) == 9
    assert again.best.settings == uninterrupted.best.settings


def test_equal_seeds_draw_the_same_and_others_do_not(tmp_path):
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        drawn.append(run_all(a_search(tmp_path / name, 5, seed=seed), score=lambda job, name=name: len(name) / 7))
    assert drawn[0] == drawn[1] and not set(drawn[0]) & set(drawn[2]) and len(set(drawn[0])) == 5


def test_a_search_that_grew_asks_for_the_rest_alone(tmp_path):
    assert len(run_all(a_search(tmp_path, 3))) == 3
    grown = a_search(tmp_path, 5)
    assert len(grown.entries) == 3 and len(run_all(grown)) == 2 and grown.count("done") == 5
    assert run_all(a_search(tmp_path, 5)) == []
    assert len(run_all(a_search(tmp_path, 5, anew=True))) == 0  # the runs are there; their scores are told again


def test_equal_trials_are_run_once_and_told_twice(tmp_path):
    search = a_search(tmp_path, 6, words=["b=0.1,0.2"])
    both = search.jobs(2)
    assert len(both) == 2 and {job.key for job in both} == {"b=0.1", "b=0.2"}
    for job in both:
        run(search, job, float(job.key[2:]))
    assert search.jobs(1) == [] and search.count("done") == 6
    assert {entry.score for entry in search.entries.values() if entry.settings == {"b": "0.2"}} == {0.2}
    assert search.best.settings == {"b": "0.2"}


def test_a_grid_has_every_point_once(tmp_path):
    search = a_search(tmp_path, None, "grid", words=["b=x,y", "c=range(1,4)"])
    keys = run_all(search, score=lambda job: 0.5)
    assert len(keys) == len(set(keys)) == 6 == search.trials
    with pytest.raises(ConfigError, match=r"can be counted\. Found an interval at 'optimizer\.lr'"):
        a_search(tmp_path, None, "grid")


def test_what_failed_is_run_again_by_the_next_command_after_all_others(tmp_path):
    search = a_search(tmp_path, 2)
    first, second = search.jobs(2)
    run(search, first, None, "failed")
    run(search, second)
    assert (search.count("failed"), search.count("done")) == (1, 1) and search.jobs(1) == []
    kept = a_search(tmp_path, 2, retry=False)
    assert kept.jobs(1) == [] and kept.count("failed") == 1
    again = a_search(tmp_path, 3)
    assert [job.key == first.key for job in again.jobs(2)] == [False, True]
    for job in (entry.job for entry in list(again.entries.values()) if entry.state == "running"):
        run(again, job)
    assert again.count("done") == 3 and again.count("failed") == 0
    assert a_search(tmp_path, 3).jobs(1) == []


def test_a_trial_that_is_not_possible_fails_alone(tmp_path):
    search = a_search(tmp_path, None, "grid", words=["b=good,bad"])
    assert run_all(search, lambda job: 0.5) == ["b=good"]
    assert search.count("failed") == 1 and search.entries[1].note == "b cannot be bad"


def test_a_run_below_the_median_is_pruned(tmp_path):
    search = a_search(tmp_path, 9, pruner={"name": "median", "n_startup_trials": 3, "n_warmup_steps": 20})
    for score in (0.4, 0.5, 0.6):
        (job,) = search.jobs(1)
        assert [search.judge(job, step, score) for step in (10, 50)] == [False, False]
        run(search, job, score)
    (job,) = search.jobs(1)
    assert search.judge(job, 10, 0.1) is False  # its rates still rise
    assert search.judge(job, 50, 0.1) is True
    run(search, job, None, "pruned")
    (job,) = search.jobs(1)
    assert search.judge(job, 50, 0.55) is False and search.judge(job, 51, float("nan")) is False
    run(search, job, 0.55)
    assert (search.count("pruned"), search.count("done"), search.best.score) == (1, 4, 0.6)
    again = a_search(tmp_path, 5, pruner="median")
    assert again.jobs(1) == [] and again.count("pruned") == 1  # nobody runs it again


def test_an_interrupted_run_stays_open(tmp_path):
    search = a_search(tmp_path, 1)
    (job,) = search.jobs(1)
    job.state = "interrupted"
    search.ended(job)
    assert search.count("running") == 1
    assert [job.key for job in a_search(tmp_path, 1).jobs(2)] == [job.key]


def test_processes_that_share_a_storage_leave_each_others_trials_alone(tmp_path):
    both = [a_search(tmp_path, 3, owner=name) for name in ("here", "there")]
    first, second = (search.jobs(1)[0] for search in both)
    run(both[0], first)
    assert a_search(tmp_path, 3, owner="there").jobs(1)[0].key == second.key != first.key
    assert len(a_search(tmp_path, 3, owner="here").entries) == 1
    third = both[0].jobs(2)
    assert len(third) == 1  # three in all


def test_a_finished_trial_whose_folder_is_gone_is_run_again(tmp_path):
    search = a_search(tmp_path, 2)
    run_all(search)
    gone = search.entries[0].job.folder
    (gone / "run.json").unlink()
    again = a_search(tmp_path, 2)
    assert [job.folder for job in again.jobs(5)] == [gone]


# ---- as a user starts it


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimizer.lr=interval(1,0)"], "'optimizer.lr=interval(1,0)' cannot be drawn from"),
        (["optimiser.lr=interval(0,1)"], "Unknown key 'optimiser.lr'"),
        (["strategy=from_scratch,linear_prob"], "There is no strategy 'linear_prob'. Did you mean 'linear_probe'?"),
        (["train.batch_size=0,32"], "batch_size"),
        (["optimizer.lr=interval(0,1)", "hydra.sweeper.sampler=grid"], "Found an interval at 'optimizer.lr'"),
        (["optimizer.lr=interval(0,1)", "hydra.sweeper.sampler=tpee"], "Did you mean 'tpe'?"),
        (["optimizer.lr=interval(0,1)", "+hydra.sweeper.sampler.n_startup=3"], "Did you mean 'n_startup_trials'?"),
        (
            ["optimizer.lr=interval(0,1)", "hydra.sweeper.pruner=mean"],
            "'hydra.sweeper.pruner' should be one of median, none",
        ),
        (["optimizer.lr=interval(0,1)", "hydra.sweeper.direction=minimize"], "can only be maximize"),
        (
            ["optimizer.lr=interval(0,1)", "hydra.sweeper.n_trials=0"],
            "'hydra.sweeper.n_trials' should be a whole number",
        ),
        (["optimizer.lr=interval(0,1)", "hydra.sweeper.n_jobs=two"], "'hydra.sweeper.n_jobs' should be a whole number"),
        (["optimizer.lr=0.1"], "A search needs something to choose from"),
        (["seed=0,1"], "'seed' cannot be searched: a lucky seed is no setting"),
    ],
)
def test_what_is_wrong_is_told_before_the_first_run(main, tmp_path, words, said):
    refused(main("train", "-m", "hydra/sweeper=optuna", *QUICK, *words), said)
    nothing_written(tmp_path)


def test_a_storage_that_cannot_be_opened_is_told(main, tmp_path):
    refused(main(*SEARCH, "hydra.sweeper.storage=nowhere"), "'hydra.sweeper.storage=nowhere' cannot be opened")


def test_optuna_that_is_not_there_is_named_with_its_extra(main, monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    refused(main(*SEARCH), "A search needs Optuna", "pip install 'tlmtl[tune]'")
    nothing_written(tmp_path)


def test_an_interval_without_a_search_says_where_it_belongs(main):
    refused(main("train", "-m", LR), "hydra/sweeper=optuna")


def test_a_search_from_its_first_trial_to_its_last(main, tmp_path):
    """Random, so that it is the same however many run at once; then it grows; then TPE prunes what cannot win."""
    command = [*SEARCH, "hydra.sweeper.sampler=random", "hydra.sweeper.pruner=none", "sweep.name=it"]
    shown = [word for word in command if word != "progress=false"]
    done = main(*shown, "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2")
    assert done.code == 0, done.all
    assert [f"[{n}/3]" in done.err for n in (1, 2, 3)] == [True] * 3
    assert "Searching optimizer.lr: 0.0001 to 0.1, log scale" in done.err and "3 trial(s), 0 there already" in done.err
    found = tuning(tmp_path)
    assert [row["trial"] for row in found] == ["0", "1", "2"] and {row["state"] for row in found} == {"done"}
    best = max(found, key=lambda row: float(row["score"]))
    assert f"Best by validation: trial {best['trial']}, score {float(best['score']):.4f}" in done.out
    again = "tlmtl train strategy=from_scratch train.epochs=2 train.evaluate_every=25% optimizer.lr="
    assert again + best["optimizer.lr"] in done.out
    history = list(csv.DictReader((tmp_path / "outputs/sweeps/it" / best["run"] / "history.csv").open()))
    scores = [float(row["value"]) for row in history if row["name"] == "score"]
    assert max(scores) == pytest.approx(float(best["score"]))  # of its best epoch, on validation
    rows = list(csv.DictReader((tmp_path / "outputs/sweeps/it/results.csv").open()))
    assert {row["config_hash"] for row in rows} == {row["run"] for row in found}
    grown = main(*command, "hydra.sweeper.n_trials=4")
    assert grown.code == 0 and "4 trial(s), 3 there already" in grown.err
    assert tuning(tmp_path)[:3] == found and len(tuning(tmp_path)) == 4
    compared = main("compare", "outputs/sweeps/it", "--over", "optimizer.lr")
    assert compared.code == 0 and "4 candidates" in compared.out


def test_a_run_with_an_absurd_rate_is_pruned(main, tmp_path):
    command = [
        *SEARCH[:-1],
        "train.epochs=12",
        "optimizer.lr=0.003,0.01,1e-7",
        "sweep.name=it",
        "hydra.sweeper.n_jobs=1",
    ]
    done = main(*command, "hydra.sweeper.sampler=grid", "+hydra.sweeper.pruner={name:median,n_startup_trials:2}")
    assert done.code == 0, done.all  # pruned is not failed
    assert [row["state"] for row in tuning(tmp_path)] == ["done", "done", "pruned"]
    assert "3 trial(s): 2 done, 1 pruned." in done.out
    pruned = tuning(tmp_path)[2]["run"]
    row = next(csv.DictReader((tmp_path / "outputs/sweeps/it" / pruned / "results.csv").open()))
    assert (row["status"], row["lr"], row.get("test/accuracy", "")) == ("pruned", "1e-07", "")
    again = main(*command, "hydra.sweeper.sampler=grid", "+hydra.sweeper.pruner={name:median,n_startup_trials:2}")
    assert again.code == 0 and "3 trial(s), 3 there already" in again.err
    assert [row["state"] for row in tuning(tmp_path)] == ["done", "done", "pruned"]


def killed_when(command, cwd: Path, there) -> None:
    """Start the command, and kill it with -9 as soon as `there()` says so."""
    process = subprocess.Popen([str(TLMTL), *command], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 200
    while not there() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    assert process.poll() is None, "it ended before it could be killed"
    process.kill()
    process.wait()


def test_killed_with_9_the_same_command_goes_on(main, tmp_path):
    command = [*SEARCH, "train.epochs=40", "sweep.name=it", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1"]
    command += ["hydra.sweeper.sampler.n_startup_trials=2", "hydra.sweeper.pruner=none"]
    runs = tmp_path / "outputs/sweeps/it"
    killed_when(
        command, tmp_path, lambda: len(list(runs.glob("*/run.json"))) > 1 and list(runs.glob("*/checkpoint/*.pt"))
    )
    before = tuning(tmp_path)
    assert len(before) == 2 and before[0]["state"] == "done"
    done = main(*command)
    assert done.code == 0 and "3 trial(s), 1 there already" in done.err, done.all
    after = tuning(tmp_path)
    assert [row["state"] for row in after] == ["done"] * 3 and after[0] == before[0]
    assert after[1]["optimizer.lr"] == before[1]["optimizer.lr"]
    log = (runs / after[1]["run"] / "log.txt").read_text()
    assert "Going on after step" in log  # from its checkpoint, not from the beginning


@pytest.mark.slow
def test_killed_often_it_ends_like_one_that_was_not(main, tmp_path):
    command = [*SEARCH, "train.epochs=60", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=1"]
    command += ["hydra.sweeper.sampler.n_startup_trials=3"]
    assert main(*command, "sweep.name=whole").code == 0
    runs = tmp_path / "outputs/sweeps/it"
    for begun in (1, 2, 4, 6):
        killed_when([*command, "sweep.name=it"], tmp_path, lambda n=begun: len(list(runs.glob("*/run.json"))) >= n)
    assert main(*command, "sweep.name=it").code == 0
    kept = ["trial", "state", "score", "optimizer.lr", "run"]
    whole, parts = ([[row[key] for key in kept] for row in tuning(tmp_path, name)] for name in ("whole", "it"))
    assert parts == whole and len(parts) == 6


@pytest.mark.slow
def test_ctrl_c_stops_it_and_the_same_command_goes_on(main, tmp_path):
    command = [*SEARCH, "train.epochs=4000", "sweep.name=it", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=2"]
    process = subprocess.Popen(
        [str(TLMTL), *command], cwd=tmp_path, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    until = time.monotonic() + 200
    while time.monotonic() < until and len(list(tmp_path.glob("outputs/sweeps/it/*/checkpoint/*.pt"))) < 2:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130 and "Traceback" not in said and "goes on" in said, said
    assert [row["state"] for row in tuning(tmp_path)] == ["running"] * 2


def tuning(cwd: Path, name: str = "it") -> list[dict[str, str]]:
    return list(csv.DictReader((cwd / "outputs/sweeps" / name / "tuning.csv").open()))
