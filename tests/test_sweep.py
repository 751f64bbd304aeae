"""Sweeps, as a user starts them: each run costs only itself, and the same command finishes what is missing."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tlmtl.columns import MEASURED

TLMTL = [str(Path(sys.executable).parent / "tlmtl")]
QUICK = ["train.epochs=3", "source.train.epochs=1", "train.evaluate_every=50%"]
SWEEP = ["train", "-m", "strategy=from_scratch,linear_probe,finetune_all", "seed=0,1", *QUICK]


def tlmtl(words, cwd, timeout=300):
    return subprocess.run([*TLMTL, *words], cwd=cwd, capture_output=True, text=True, timeout=timeout)


def rows(cwd: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((cwd / "outputs/sweeps/latest/results.csv").open()))


def decided(cwd: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in [*MEASURED, "run_id"]} for row in rows(cwd)]


def processes_left() -> list[str]:
    """Command lines of the processes that a sweep's command started, in the folder that bears our mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
            folder = (path.parent / "cwd").resolve().name
        except OSError:
            continue
        if line and f"tlmtl-mark-{os.getpid()}" in folder:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep, uninterrupted."""
    cwd = tmp_path_factory.mktemp("whole")
    done = tlmtl(SWEEP, cwd)
    assert done.returncode == 0, done.stderr
    return cwd, done


def test_a_sweep_gives_a_row_per_run_and_prints_the_table(whole):
    cwd, done = whole
    assert len(rows(cwd)) == 6 and {row["status"] for row in rows(cwd)} == {"done"}
    assert "from_scratch" in done.stdout and "test/accuracy" in done.stdout and "±" in done.stdout
    assert "[6/6]" in done.stderr
    assert not list(cwd.glob("multirun*")) and sorted(p.name for p in cwd.iterdir()) == ["outputs"]


def test_the_same_command_again_runs_nothing(whole):
    cwd, _ = whole
    before = (cwd / "outputs/sweeps/latest/results.csv").read_bytes()
    again = tlmtl(SWEEP, cwd)
    assert again.returncode == 0 and "0 to do, 6 there already" in again.stderr
    assert (cwd / "outputs/sweeps/latest/results.csv").read_bytes() == before


def test_a_command_that_grew_runs_what_is_new_and_stale_runs_again(whole):
    cwd, _ = whole
    more = [
        word.replace("seed=0,1", "seed=0,1,2").replace("from_scratch,linear_probe,finetune_all", "linear_probe")
        for word in SWEEP
    ]
    grown = [word.replace("seed=0,1", "seed=0,1,2") for word in SWEEP]
    done = tlmtl(grown, cwd)
    assert "3 to do, 6 there already" in done.stderr and len(rows(cwd)) == 9
    record = next((cwd / "outputs/sweeps/latest").glob("*/run.json"))
    record.write_text(json.dumps({**json.loads(record.read_text()), "tlmtl": "0.0.0"}))
    done = tlmtl(grown, cwd)
    assert "is stale: tlmtl's version changed (0.0.0" in done.stderr and "1 to do, 8 there already" in done.stderr
    fewer = tlmtl(SWEEP, cwd)
    assert "0 to do, 6 there already" in fewer.stderr
    assert len(rows(cwd)) == 9  # the file keeps the rows of all the sweep's runs, the table shows this command's
    assert "  2  " in fewer.stdout and "  3  " not in fewer.stdout
    assert more != grown


def test_killed_with_9_and_started_again_it_is_complete(whole, tmp_path):
    slow = ["train", "-m", "strategy=from_scratch,linear_probe", "seed=0,1", *QUICK, "train.epochs=20"]
    cwd = tmp_path / f"tlmtl-mark-{os.getpid()}"
    cwd.mkdir()
    for ended in (1, 3):
        process = subprocess.Popen(
            [*TLMTL, *slow], cwd=cwd, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"[{ended}/"):
                break
        time.sleep(0.3)  # in the middle of the next runs
        process.kill()
        process.wait()
        until = time.monotonic() + 10
        while processes_left() and time.monotonic() < until:
            time.sleep(0.1)
        assert processes_left() == []  # no orphan
    assert tlmtl(slow, cwd).returncode == 0
    other = tmp_path / "uninterrupted"
    other.mkdir()
    assert tlmtl(slow, other).returncode == 0
    for mine, theirs in zip(decided(cwd), decided(other), strict=True):
        assert {k: (v, theirs[k]) for k, v in mine.items() if v != theirs[k]} == {}
    assert len(decided(cwd)) == 4


def test_two_processes_that_need_one_source_train_it_once(tmp_path):
    words = [*TLMTL, "train", "source.seed=77", f"output.cache={tmp_path / 'cache'}", *QUICK]
    first, second = (tmp_path / name for name in ("a", "b"))
    first.mkdir(), second.mkdir()
    both = [subprocess.Popen(words, cwd=cwd, stderr=subprocess.PIPE, text=True) for cwd in (first, second)]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert sum("pre-training small_cnn on the source data (once" in text for text in errors) == 1
    assert len(list((tmp_path / "cache/sources").glob("*/run.json"))) == 1
    found = [
        next((cwd / "outputs/runs/latest").glob("results.csv")).read_text().splitlines()[1] for cwd in (first, second)
    ]
    assert len(found) == 2


def test_two_identical_sweeps_at_once_run_everything_once(tmp_path):
    words = [*TLMTL, *SWEEP, "train.batch_size=16"]
    both = [
        subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    errors = sorted((text for _, text in said), key=lambda text: "waiting until it has ended" in text)
    assert "6 to do, 0 there already" in errors[0] and "0 to do, 6 there already" in errors[1]
    assert len(rows(tmp_path)) == 6 and {row["status"] for row in rows(tmp_path)} == {"done"}
