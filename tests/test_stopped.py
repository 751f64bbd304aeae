"""A full disk and Ctrl-C: an exit code and a message, and a row that says why the run is not done."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TLMTL

from tlmtl import results
from tlmtl.terminal import Lasting

SHORT = ("train.epochs=1", "progress=false")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system may be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")], ids=["run", "sweep"])
def test_no_space_is_left(tlmtl, tmp_path, small_disk, sweep):
    said = tlmtl(["train", "strategy=from_scratch", f"output.root={small_disk}", *sweep, *SHORT], tmp_path)
    assert said.code in (1, 2), said.all
    assert "Traceback" not in said.all and "No space left" in said.err, said.all
    for record in small_disk.rglob("run.json"):
        assert json.loads(record.read_text())["status"] == "failed"
    for rows in small_disk.rglob("results.csv"):
        assert {row["status"] for row in results.read_rows(rows)} == {"failed"}


def interrupt(args: list[str], cwd: Path, begun: str) -> tuple[int, str]:
    """Ctrl-C once a file that matches `begun` is there: the exit code and what was said."""
    process = subprocess.Popen(
        [TLMTL, *args], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        until = time.monotonic() + 120
        while not list(cwd.glob(begun)):
            assert process.poll() is None and time.monotonic() < until, process.communicate()[0]
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
    return process.returncode, said


LONG = ("train", "strategy=from_scratch", "train.epochs=100000", "train.checkpoint_every=10st", "progress=false")


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
@pytest.mark.parametrize(
    ("sweep", "begun"),
    [
        ((), "outputs/runs/latest/checkpoint/*.pt"),
        (("-m", "seed=0,1"), "outputs/sweeps/latest/*/checkpoint/*.pt"),
    ],
    ids=["run", "sweep"],
)
def test_ctrl_c(tmp_path, sweep, begun):
    code, said = interrupt([*LONG, *sweep], tmp_path, begun)
    assert code == 130, said
    assert "Interrupted" in said and "Traceback" not in said
    folder = next(tmp_path.glob(begun)).parent.parent
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    (row,) = results.read_rows(folder / "results.csv")
    assert row["status"] == "interrupted" and row["task"] == "digit" and not row["error"]


def test_a_terminal_that_is_closed_costs_no_run_its_checkpoint(tmp_path):
    child, terminal = pty.fork()
    if not child:
        os.chdir(tmp_path)
        os.execv(TLMTL, [str(TLMTL), "train", "-m", "strategy=from_scratch", "seed=0,1", "train.epochs=100000"])
    shown = ""
    while not all(re.search(rf"seed={seed}[^\n]* [1-9]\d*/200000", shown) for seed in (0, 1)):  # both have made a step
        shown += os.read(terminal, 10000).decode(errors="replace")
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 75
    folders = [path.parent for path in tmp_path.glob("outputs/sweeps/latest/*/run.json")]
    assert folders and all(json.loads((path / "run.json").read_text())["status"] == "interrupted" for path in folders)
    assert all(list((path / "checkpoint").glob("*.pt")) for path in folders)


def test_what_is_said_to_a_closed_terminal_is_said_to_nobody():
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        shown = Lasting(stream)
        assert shown.isatty() and shown.write("seen") == 4
        shown.flush()
        assert os.read(ours, 100) == b"seen"
        os.close(ours)
        shown.write("unseen")
        shown.flush()
        print("nor this", file=shown, flush=True)


def test_a_pipe_that_is_closed_ends_no_sweep(tmp_path):
    words = [TLMTL, "train", "-m", "strategy=from_scratch", "seed=0,1", "train.epochs=1"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None and b"2 to do" in process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0
    assert [row["status"] for row in results.read_rows(tmp_path / "outputs/sweeps/latest/results.csv")] == ["done"] * 2
