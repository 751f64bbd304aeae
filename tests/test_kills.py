"""A run that is killed with -9, at any moment and in the middle of any write, ends with the bytes of one that was not."""

import csv
import io
import json
import multiprocessing as mp
import os
import random
import signal
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import tlmtl
from tlmtl.columns import MEASURED
from tlmtl.sweep.server import IMPORTS

RUN = [
    "strategy=finetune_all",
    "train.epochs=8",
    "train.batch_size=20",
    "train.evaluate_every=3st",
    "train.checkpoint_every=2st",
    "train.ema=0.9",
    "head.dropout=0.3",
    "dataset.augment=digits",
    "source.train.epochs=1st",
]
MOMENTS = ["before", "half", "unnamed", "after"]


def one_run(cfg, root: Path, at: int = 0, moment: str = "", say=None, seed: int = 0) -> None:
    """What `tlmtl train` does with `cfg`, in a child process that writes beneath `root`. It kills itself at its `at`-th write:
    before anything is written, when half of it is, when all is and the file has not got its name yet, or just after.

    Arguments:
        say: a connection, which is told "training" when that begins, and at the end how many files were written.
    """
    from tlmtl import api, files
    from tlmtl.progress import Silent

    class Tells(Silent):
        def start(self, total, done):
            if say is not None:
                say.send("training")

    write, count = files.write, 0

    def dying(path, fill):
        nonlocal count
        count += 1
        if count != at or moment == "after":
            write(path, fill)
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return

        def part(temporary):
            if moment != "before":
                fill(temporary)
            if moment == "half":
                os.truncate(temporary, random.Random(seed).randrange(temporary.stat().st_size + 1))
            os.kill(os.getpid(), signal.SIGKILL)

        write(path, part)

    files.write = dying
    api.choose = lambda wanted, label: Tells()
    root.mkdir(parents=True, exist_ok=True)
    os.chdir(root)  # no repository: its commit, which rows name, could change while this lasts
    cfg.output.root = str(root)
    api.run(cfg)
    if say is not None:
        say.send(count)


@pytest.fixture(scope="module")
def start():
    """`start(root, ...)`: `one_run` in a process of its own."""
    cfg = tlmtl.compose(RUN)
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([*IMPORTS, "tlmtl.api", "hydra"])

    def begin(*arguments, **settings):
        mine = OmegaConf.merge(cfg, settings)
        process = context.Process(target=one_run, args=(mine, *arguments))
        process.start()
        return process

    return begin


def left(root: Path) -> dict[str, object]:
    """What the finished run in `root` left: rows without what was measured, files, bytes."""
    records = {path.parent: json.loads(path.read_text()) for path in root.glob("runs/2*/run.json")}
    assert len(records) == 1, "the second command did not go on in the same folder"
    ((folder, record),) = records.items()
    assert record["status"] == "done"
    rows = list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))
    return {
        "rows": [{k: v for k, v in row.items() if k not in [*MEASURED, "run_id"]} for row in rows],
        "files": sorted(path.name for path in folder.iterdir() if path.name != "checkpoint"),
        **{name: (folder / name).read_bytes() for name in ("model.safetensors", "history.csv", "predictions.parquet")},
    }


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """What a run leaves that nobody kills, how many files it writes, and how many seconds training and what follows take."""
    root = tmp_path_factory.mktemp("whole")
    for keep in (True, False):  # the first one pre-trains the source, and is not counted
        ours, theirs = mp.Pipe()
        process = start(root / str(keep), 0, "", theirs, output={"keep_checkpoint": keep})
        assert ours.recv() == "training"
        began = time.monotonic()
        writes, seconds = ours.recv(), time.monotonic() - began
        process.join()
        assert process.exitcode == 0
    found = left(root / "False")
    assert found == left(root / "True")
    kept = sorted(int(path.stem) for path in root.glob("True/runs/2*/checkpoint/*.pt"))
    assert kept == [20, 22]  # the last two of 24 steps, every second of which has one
    return found, writes, seconds


def killed(start, root: Path, number: int, writes: int, seconds: float) -> tuple[str, Path]:
    """Kill a run and start it again. Returns how it was killed, and beneath which folder."""
    chance = random.Random(number)
    if number % 2:
        at, moment = chance.randint(1, writes), chance.choice(MOMENTS)
        process = start(root, at, moment, None, number)
        process.join()
        how = f"{moment} write {at} of {writes}"
    else:
        ours, theirs = mp.Pipe()
        process = start(root, 0, "", theirs)
        assert ours.recv() == "training"
        delay = chance.uniform(0, 0.8) * seconds
        ours.poll(delay)
        process.kill()
        process.join()
        if process.exitcode == 0:  # it was faster than thought
            return killed(start, root / "again", number, writes, seconds / 2)
        how = f"{delay:.2f} s after training began"
    assert process.exitcode == -signal.SIGKILL, how
    if "done" not in [json.loads(path.read_text())["status"] for path in root.glob("runs/2*/run.json")]:
        second = start(root)
        second.join()
        assert second.exitcode == 0, how
    return how, root


@pytest.mark.parametrize(
    "kills", [pytest.param(range(1), id="1"), pytest.param(range(40), id="40", marks=pytest.mark.slow)]
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(kills, start, whole, tmp_path):
    found, writes, seconds = whole
    same = 0
    for number in kills:
        how, root = killed(start, tmp_path / str(number), number, writes, seconds)
        assert left(root) == found, how
        same += 1
        print(f"{same} of {len(kills)}: {how}")
    assert same == len(kills)
