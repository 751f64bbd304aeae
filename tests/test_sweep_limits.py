"""What `sweep.*` sets: what is run again, the dry run, limits; and what a sweep says of itself while it runs."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from conftest import TLMTL, nothing_written, refused
from faults import QUICK, place, rows
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tlmtl.errors import ConfigError
from tlmtl.schema import Sweep
from tlmtl.sweep.limits import limits_of, seconds_of
from tlmtl.sweep.plan import Job, open_sweep
from tlmtl.sweep.show import Lines, Table, counted, short
from tlmtl.sweep.timeleft import TimeLeft, clock

SWEEP = ("train", "-m", *QUICK, "train.epochs=1", "seed=0,1")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5d", 129600), ("1m 5s", 65)]
)
def test_times(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["90", 90, "0s", "-5m", "soon", "", "5m!", "1:30:00", "nan", "1e400s", True, [1]])
def test_no_times(text):
    with pytest.raises(ConfigError, match=r"'sweep.time_limit' should be a time such as 90s, 30m, 2h or 1h30m\. Found"):
        seconds_of(text)


def settings(**given):
    return OmegaConf.create({"sweep": {**vars(Sweep()), **given}, "output": {"root": "outputs"}})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("rerun", "fialed", "one of failed, all, none. Found 'fialed'. Did you mean 'failed'?"),
        ("rerun", True, "one of failed, all, none. Found 'True'"),
        ("retries", -1, "a whole number, 0 or more. Found '-1'"),
        ("retries", "often", "a whole number, 0 or more. Found 'often'"),
        ("retries", 1.5, "a whole number, 0 or more. Found '1.5'"),
        ("memory_limit_mb", 0, "a whole number, 1 or more. Found '0'"),
        ("memory_limit_mb", "2GB", "a whole number, 1 or more. Found '2GB'"),
        ("time_limit", 90, "such as 90s, 30m, 2h or 1h30m. Found '90'"),
        ("dry_run", "perhaps", "true or false. Found 'perhaps'"),
        ("name", "../elsewhere", "a plain name for a folder, and not 'latest'. Found '../elsewhere'"),
        ("name", "latest", "a plain name for a folder, and not 'latest'. Found 'latest'"),
    ],
)
def test_wrong_settings_name_their_key(tmp_path, monkeypatch, key, value, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(f"'sweep.{key}' should be ") + ".*" + re.escape(words)):
        open_sweep(settings(**{key: value}), str(value))
    nothing_written(tmp_path)


def test_a_wrong_setting_is_told_before_anything_starts(main, tmp_path):
    refused(main(*SWEEP, "sweep.rerun=fialed"), "'sweep.rerun'", "Did you mean 'failed'?")
    nothing_written(tmp_path)


def test_null_is_no_limit():
    found = limits_of(settings(retries=None))
    assert (found.retries, found.seconds, found.megabytes, found.rerun) == (0, None, None, "failed")


def test_a_dry_run_of_a_plain_run_is_refused(main, tmp_path):
    refused(main("train", "sweep.dry_run=true"), "'sweep.dry_run' is for sweeps: add -m")
    nothing_written(tmp_path)


def test_a_dry_run_estimates_and_writes_nothing(main, tmp_path):
    cache = tmp_path / "cache"
    words = (*SWEEP, "strategy=from_scratch,linear_probe", f"output.cache={cache}", "sweep.dry_run=true")
    said = main(*words)
    assert said.code == 0 and said.out.count("  missing\n") == 4, said.all
    assert "4 run(s): 4 to do, 0 there already. outputs/sweeps/" in said.out
    assert "going by a few training steps of the first job, strategy=from_scratch seed=0" in said.out
    assert "Pre-training of the source, once, is not counted." in said.out
    nothing_written(tmp_path)
    assert not cache.exists()
    place(tmp_path)
    broken = main(
        *SWEEP, "allow=[bad_terms]", "+term.bad._target_=bad_terms.Bad", "+term.bad.how=raise", "sweep.dry_run=true"
    )
    assert (
        broken.code == 0 and "No estimate of the time: the first steps of seed=0 ended with: ValueError" in broken.out
    )


@pytest.fixture
def two(main, tmp_path):
    """A sweep with one run that is there and one that failed; its command, and where the runs are."""
    assert main(*SWEEP).code == 0
    good, bad = (tmp_path / "outputs/sweeps/latest" / row["config_hash"] for row in rows(tmp_path))
    record = json.loads((bad / "run.json").read_text())
    (bad / "run.json").write_text(json.dumps({**record, "status": "failed", "error": "the cat sat on it"}))
    return good, bad


def again(main, rerun: str):
    return main(*SWEEP, f"sweep.rerun={rerun}")


def test_what_is_run_again(main, tmp_path, two):
    good, bad = two
    began = {path: json.loads((path / "run.json").read_text())["started"] for path in two}
    time.sleep(1.1)  # run.json counts in seconds
    said = again(main, "none")
    assert said.code == 1 and "0 to do, 2 there already" in said.err
    assert "failed: seed=1: the cat sat on it (left so: sweep.rerun=none)" in said.err
    said = main(*SWEEP, "sweep.rerun=all", "sweep.dry_run=true")
    assert said.out.count("  again\n") == 2
    said = again(main, "failed")
    assert said.code == 0 and "1 to do, 1 there already" in said.err
    assert json.loads((good / "run.json").read_text())["started"] == began[good]
    assert json.loads((bad / "run.json").read_text())["started"] != began[bad]
    said = again(main, "ALL")
    assert said.code == 0 and "2 to do, 0 there already" in said.err
    assert json.loads((good / "run.json").read_text())["started"] != began[good]
    record = json.loads((good / "run.json").read_text())
    (good / "run.json").write_text(json.dumps({**record, "tlmtl": "0.0.0"}))
    said = again(main, "none")
    assert "is stale: tlmtl's version changed (0.0.0" in said.err and "it is left." in said.err
    assert "0 to do, 2 there already" in said.err


def test_a_limit_ends_a_run_and_the_same_command_goes_on_from_its_checkpoint(main, tmp_path):
    place(tmp_path)
    words = ["train", "-m", "allow=[bad_terms]", "+term.bad._target_=bad_terms.Bad", "+term.bad.how=slow", *QUICK]
    words += ["train.epochs=20", "seed=0,1"]  # 40 steps of more than 0.2 s
    said = main(*words, "sweep.time_limit=3s", "sweep.retries=3")
    assert said.code == 1 and said.err.count("failed after") == 2 and "trying again" not in said.err
    assert {row["error"] for row in rows(tmp_path)} == {"took longer than sweep.time_limit=3s"}
    assert said.err.count("took longer than sweep.time_limit=3s (outputs") == 2
    said = main(*words)
    assert said.code == 0 and [row["status"] for row in rows(tmp_path)] == ["done"] * 2
    assert ["Going on after step" in path.read_text() for path in tmp_path.glob("outputs/sweeps/latest/*/log.txt")] == [
        True
    ] * 2


def test_a_run_hears_its_sweep_where_that_ignores_signals_itself(tmp_path):
    """As SLURM's jobs do, in which SIGTERM is the scheduler's."""
    place(tmp_path)
    words = ["train", "-m", "allow=[bad_terms]", "+term.bad._target_=bad_terms.Bad", "+term.bad.how=slow", *QUICK]
    done = subprocess.run(
        ["sh", "-c", 'trap "" TERM; exec "$@"', "sh", TLMTL, *words, "train.epochs=20", "sweep.time_limit=3s"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (log,) = tmp_path.glob("outputs/sweeps/latest/*/log.txt")
    assert "Stopped by SIGTERM: finishing this step" in log.read_text()
    assert list(log.parent.glob("checkpoint/*.pt"))


def test_jobs_that_equal_another_are_named_beside_the_table(main, tmp_path):
    said = main("train", "-m", "strategy=from_scratch", "source.train.epochs=1,2,3", "train.epochs=1")
    assert said.code == 0 and "2 job(s) equal another one, so they ran once and stand under its name:" in said.out
    assert (
        "  source.train.epochs=2 = source.train.epochs=1\n  source.train.epochs=3 = source.train.epochs=1\n" in said.out
    )


def test_a_sweep_of_one_job(main, tmp_path):
    said = main("train", "-m", *QUICK, "train.epochs=1", "seed=3")
    assert said.code == 0 and "[1/1] run: done after" in said.err and len(rows(tmp_path)) == 1


def job(number: int, state: str = "waiting", label: str = "") -> Job:
    cfg = OmegaConf.create({})
    return Job(
        cfg, label or f"strategy=linear_probe seed={number}", str(number), Path(str(number)), 1, "missing", state
    )


def test_time_left_goes_by_runs_that_ended_and_by_steps(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tlmtl.sweep.timeleft.time.monotonic", lambda: now[0])
    jobs = [job(i) for i in range(5)]
    left = TimeLeft(workers=2)
    assert left.left(jobs) is None
    for item in jobs[:2]:
        item.state = "running"
        left.moved(item, 0, 100)
    now[0] = 10.0
    left.moved(jobs[0], 50, 100)
    left.moved(jobs[1], 20, 100)
    assert left.left(jobs) == pytest.approx((10 + 40 + 3 * (20 + 50) / 2) / 2)
    jobs[0].state = "done"
    left.ended(jobs[0], 20.0)
    assert left.left(jobs) == pytest.approx((40 + 3 * 20) / 2)
    jobs[2].state = "failed"
    left.ended(jobs[2], 0.1)  # says nothing of how long a run takes
    assert left.left(jobs) == pytest.approx((40 + 2 * 20) / 2)
    jobs[3].state = jobs[4].state = "done"
    assert left.left(jobs) == 40


@pytest.mark.parametrize(
    ("seconds", "text"), [(7, "0:07"), (320, "5:20"), (3920, "1:05:20"), (59.7, "1:00"), (360000, "100:00:00")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@given(st.text(max_size=60), st.integers(1, 40))
def test_short_labels_fit_and_keep_their_end(label, width):
    cut = short(label, width)
    assert len(cut) <= width and (cut == label or "…" in cut)
    if len(label) > width > 5:
        assert cut.endswith(label[-2:])


@pytest.mark.parametrize("columns", [40, 80])
def test_hundreds_of_jobs_on_a_small_terminal(columns):
    from rich.console import Console

    jobs = [job(i, label=f"strategy=gradual_unfreezing optimizer.lr=0.00{i} seed={i}") for i in range(300)]
    table = Table(jobs, workers=64)
    table.console = Console(width=columns, height=24, force_terminal=True, record=True)
    for item in jobs[:100]:
        item.state = "running"
        table.started(item)
        table.moved(item, 0, 1200, "")
        table.moved(item, 1, 1200, "digit 0.912, parity 0.955, bigger 0.801")
    for item in jobs[:36]:
        item.state = "failed" if item.key == "7" else "done"
        table.at[item.key] = (1200, 1200, "digit 0.912, parity 0.955, bigger 0.801")
        table.seconds[item.key] = 12.34
        table.ends.append(item)
        table.left.ended(item, 12.34)
    table.console.print(table._draw())
    lines = table.console.export_text().splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= columns
    said = " ".join(" ".join(lines).split())
    assert "36 of 300 runs ended, 1 failed, 64 running, about 0:51 left" in said
    assert "... and 45 more running" in said


def test_without_a_terminal_there_is_a_line_per_end_and_a_heartbeat(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("tlmtl.sweep.show.time.monotonic", lambda: now[0])
    jobs = [job(0), job(1)]
    lines = Lines(jobs, workers=1, quiet=False)
    jobs[0].state = "running"
    for now[0] in range(130):
        lines.moved(jobs[0], int(now[0]), 200, "accuracy 0.9")
        lines.tick()
    jobs[0].state, jobs[0].note = "failed", "it rained"
    lines.ended(jobs[0], 130)
    said = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in said[:-1]] == ["0 of 2 runs ended"] * 2
    assert said[-1] == "[1/2] strategy=linear_probe seed=0: failed after 130.0 s, it rained"
    assert counted(jobs, lines.left).startswith("1 of 2 runs ended, 1 failed")
    silent = Lines(jobs, workers=1, quiet=True)
    silent.ended(jobs[0], 1)
    assert capsys.readouterr().err == ""
