"""What goes wrong in a sweep's runs, processes and folders costs as little as it can."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from faults import BAD, QUICK, SAID, WAYS, place, records, rows

from tlmtl.sweep.show import Lines

TLMTL = str(Path(sys.executable).parent / "tlmtl")
MEMORY = "sweep.memory_limit_mb=400"


def broken_in_ten_ways(main, folder: Path, good: int, limit: str) -> list[str]:
    """A sweep of `good` whole runs and ten that break. Returns its command."""
    seeds = [*range(good), *range(40, 50)]
    command = ["train", "-m", *BAD, "+term.bad.seed=${seed}", f"seed={','.join(map(str, seeds))}", *QUICK, MEMORY]
    command.append(f"sweep.time_limit={limit}")  # whole runs take a second, or ten on a machine that is busy
    said = main(*command)
    assert said.code == 1 and "Traceback" not in said.all
    assert f"10 of {good + 10} runs failed. The same command runs them again." in said.err
    found = {int(row["seed"]): row for row in rows(folder)}
    assert sorted(found) == seeds
    assert {found[seed]["status"] for seed in range(good)} == {"done"}
    assert all(float(found[seed]["test/accuracy"]) > 0 for seed in range(good))
    for seed, how in zip(range(40, 50), WAYS, strict=True):
        row = found[seed]
        assert (row["status"], row["test/accuracy"]) == ("failed", ""), (how, row["status"])
        assert row["error"].startswith(SAID[how]) or SAID[how] in row["error"], (how, row["error"])
        assert f"seed={seed}: {row['error']} (outputs" in said.err
    return command


def test_ten_ways_to_fail_cost_ten_runs_and_are_run_again(main, tmp_path, monkeypatch):
    monkeypatch.setattr("tlmtl.sweep.pool.GRACE", 2.0)  # what hangs is killed this long after its limit
    place(tmp_path)
    command = broken_in_ten_ways(main, tmp_path, good=3, limit="20s")
    before = sorted(tmp_path.rglob("*"))
    again = main(*command, "sweep.dry_run=true")
    assert again.code == 0 and "13 run(s): 10 to do, 3 there already." in again.out
    assert again.out.count("failed before: ") == 10 and again.out.count("  there already\n") == 3
    assert "failed before: ValueError: on purpose\n" in again.out
    assert "with 2 at a time, going by 3 run(s) of this sweep that are there." in again.out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_fifty_jobs_of_which_ten_fail_in_ten_ways(main, tmp_path, monkeypatch):
    monkeypatch.setattr("tlmtl.sweep.pool.GRACE", 2.0)
    place(tmp_path)
    began = time.monotonic()
    command = broken_in_ten_ways(main, tmp_path, good=40, limit="90s")
    before = {row["seed"]: row["status"] for row in rows(tmp_path)}
    again = main(*command)
    assert again.code == 1 and "10 to do, 40 there already" in again.err
    assert {row["seed"]: row["status"] for row in rows(tmp_path)} == before
    print(f"50 jobs and the ten again: {time.monotonic() - began:.0f} s")


def test_what_the_system_did_is_tried_again_from_the_checkpoint_and_what_the_run_did_is_not(main, tmp_path):
    place(tmp_path)
    said = main("train", "-m", *BAD, "+term.bad.how=once,notfinite", *QUICK, "sweep.retries=2")
    assert said.code == 1
    assert (
        "how=once: the process ended by SIGKILL (by hand, or by the system when memory ran out); trying again (2 of 3)"
        in said.err
    )
    assert "how=notfinite: failed after" in said.err and "how=notfinite: The term" not in said.err.split("failed:")[0]
    assert "[2/2]" in said.err and "(after 2 tries)" in said.err
    assert sorted(row["status"] for row in rows(tmp_path)) == ["done", "failed"]
    said = main("train", "-m", *BAD, "+term.bad.how=exit,kill", *QUICK, "sweep.retries=1")
    assert said.err.count("trying again (2 of 2)") == 2 and said.err.count("by exit code 3 (after 2 tries)") == 2


SLOW = (*BAD, "+term.bad.how=slow", *QUICK, "train.epochs=40", "hardware.workers=2")  # 8 seconds of sleep in a run


class Runs:
    """What the pool's lines hear, and what a test does then."""

    def __init__(self, monkeypatch) -> None:
        self.acts: list = []
        self.heard: set[str] = set()
        self.below: list[psutil.Process] = []
        before = set(psutil.Process().children(recursive=True))  # what other tests left, such as wandb's service
        moved, said = Lines.moved, Lines.said

        def hear(board, item, step, total, metric):
            moved(board, item, step, total, metric)
            self.heard.add(item.key if step >= 2 else "")
            if len(self.heard - {""}) == 2 and self.acts:
                now = set(psutil.Process().children(recursive=True)) - before
                self.below = [one for one in now if os.getsid(one.pid) == one.pid]
                self.acts.pop(0)()

        def tell(board, text):
            said(board, text)
            if text.startswith("Stopping") and self.acts:
                self.acts.pop(0)()

        monkeypatch.setattr(Lines, "moved", hear)
        monkeypatch.setattr(Lines, "said", tell)

    def gone(self, seconds: float = 15) -> bool:
        _, alive = psutil.wait_procs(self.below, timeout=seconds)
        return len(self.below) == 2 and not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75)])
def test_a_signal_leaves_checkpoints_and_no_orphan_and_the_command_goes_on(main, tmp_path, monkeypatch, number, code):
    place(tmp_path)
    runs = Runs(monkeypatch)
    runs.acts = [lambda: os.kill(os.getpid(), number)]
    said = main("train", "-m", *SLOW, "seed=0,1,2")
    assert said.code == code and "Traceback" not in said.err
    assert "Stopping: writing checkpoints of 2 runs; Ctrl-C again stops now." in said.err
    assert "0 of 3 runs done, 2 to be gone on with. The same command goes on where it stopped." in said.err
    assert runs.gone()
    assert [record["status"] for record in records(tmp_path)] == ["interrupted"] * 2
    assert {path.parent.parent.name for path in tmp_path.glob("outputs/sweeps/latest/*/checkpoint/*")} == {
        path.parent.name for path in tmp_path.glob("outputs/sweeps/latest/*/run.json")
    }
    again = main("train", "-m", *SLOW, "seed=0,1,2", "sweep.dry_run=true")
    assert again.out.count("  interrupted\n") == 2 and again.out.count("  missing\n") == 1


def test_ctrl_c_twice_stops_now(main, tmp_path, monkeypatch):
    place(tmp_path)
    runs = Runs(monkeypatch)

    def first():
        for one in runs.below:
            one.suspend()  # they cannot answer
        os.kill(os.getpid(), signal.SIGINT)

    runs.acts = [first, lambda: os.kill(os.getpid(), signal.SIGINT)]
    said = main("train", "-m", *SLOW, "seed=0,1")
    assert said.code == 130 and "Interrupted" in said.err and "Traceback" not in said.err
    assert runs.gone(1)


def test_without_its_fork_server_a_sweep_goes_on(main, tmp_path, monkeypatch):
    from multiprocessing import forkserver

    place(tmp_path)
    runs = Runs(monkeypatch)
    runs.acts = [lambda: os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)]
    said = main("train", "-m", *SLOW, "seed=0,1,2", "train.epochs=20")
    assert said.code == 0 and runs.gone(1) and not runs.acts
    assert [row["status"] for row in rows(tmp_path)] == ["done"] * 3


def children(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=15)
    return not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def test_a_killed_parent_leaves_a_table_of_what_it_has_and_no_orphan(tmp_path, tlmtl):
    words = ["train", "-m", *BAD, "+term.bad.how=no,slow", *QUICK, "train.epochs=20", "hardware.workers=1"]
    place(tmp_path)
    process = subprocess.Popen([TLMTL, *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/2]"):
            break
    time.sleep(2.5)
    below = children(process)
    process.kill()
    process.communicate(timeout=60)
    assert gone(below)
    assert [row["status"] for row in rows(tmp_path)] == ["done"]
    compared = tlmtl(["compare", "outputs/sweeps/latest"], tmp_path)
    assert compared.code == 0 and "from_scratch" in compared.out


WRITER = """
import sys, tlmtl
for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    cfg = tlmtl.compose(["strategy=from_scratch", "train.epochs=1st", "progress=false", f"seed={seed}"])
    tlmtl.run(cfg)
"""


def written_at_once(cwd: Path, processes: int, runs: int) -> None:
    (cwd / "writer.py").write_text(WRITER)
    both = [
        subprocess.Popen(
            [sys.executable, "writer.py", str(i * runs), str((i + 1) * runs)],
            cwd=cwd,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0] * processes, errors
    done = subprocess.run(
        [TLMTL, "compare", "outputs/runs", "--format", "csv", "--out", "all.csv"],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = [
        row for path in (cwd / "outputs/runs").glob("*/results.csv") if not path.parent.is_symlink()
        for row in csv.DictReader(path.open())
    ]  # fmt: skip
    assert {int(row["seed"]) for row in found} == set(range(processes * runs)) and len(found) == processes * runs
    assert {row["status"] for row in found} == {"done"}
    summary = next(csv.DictReader((cwd / "all.csv").open()))
    assert int(summary["n"]) == processes * runs
    latest = cwd / "outputs/runs/latest"
    assert latest.is_symlink() and json.loads((latest / "run.json").read_text())["status"] == "done"
    assert not list((cwd / "outputs/runs").glob(".latest*"))


def test_processes_that_write_at_once_lose_no_row(tmp_path):
    written_at_once(tmp_path, processes=3, runs=4)


@pytest.mark.slow
def test_eight_processes_of_a_hundred_runs_leave_eight_hundred_rows(tmp_path):
    began = time.monotonic()
    written_at_once(tmp_path, processes=8, runs=100)
    print(f"800 runs: {time.monotonic() - began:.0f} s")


def test_a_run_that_another_process_holds_is_told_so(main, tmp_path):
    from tlmtl.results import RunFolder

    place(tmp_path)
    words = ["train", "-m", *QUICK, "train.epochs=1", "seed=0,1"]
    assert main(*words).code == 0
    folder = next(path.parent for path in tmp_path.glob("outputs/sweeps/latest/*/run.json"))
    (folder / "results.csv").write_text("run_id,status\n\0")  # no whole rows: it is to be run again
    with RunFolder(folder):
        said = main(*words)
    assert said.code == 1 and "in use by another process" in said.err and "Traceback" not in said.all
    assert "holds no whole rows" in said.err
    assert main(*words).code == 0 and len(rows(tmp_path)) == 2


def test_a_process_that_cannot_be_started_is_a_message(main, tmp_path, monkeypatch):
    def refuse(self):
        raise EOFError("the fork server is gone")

    monkeypatch.setattr("multiprocessing.context.ForkServerProcess.start", refuse)
    monkeypatch.setattr("tlmtl.sweep.pool.time.sleep", lambda seconds: None)
    said = main("train", "-m", *QUICK, "seed=0,1")
    assert said.code == 1 and "No process could be started for the run seed=0: EOFError" in said.err
