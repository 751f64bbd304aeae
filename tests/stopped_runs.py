"""A short run, whole and begun, and ways to stop one: for the tests of runs that go on."""

import signal
from pathlib import Path

import pytest
from test_resume import StopAt, compose, decided, parameters

from tlmtl import job
from tlmtl.progress import Silent
from tlmtl.results import RunFolder


class Signalled(Silent):
    """Signals that come at a step, or as often as the loop evaluates."""

    def __init__(self, at: int, *numbers: int) -> None:
        self.at, self.numbers = at, numbers

    def step(self, step, losses):
        if step == self.at:
            for number in self.numbers:
                signal.raise_signal(number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, shared_cache):
    """A config and the folder of its run, uninterrupted."""
    cfg = compose("strategy=finetune_all", "seed=3", "train.ema=0.9", "dataset.augment=digits")
    folder = tmp_path_factory.mktemp("resume") / "whole"
    job.execute(cfg, folder, "whole")
    return cfg, folder


@pytest.fixture
def begun(whole, tmp_path):
    """The folder of the same run, stopped at step 8 of 12, with the checkpoints of steps 3 and 6."""
    with pytest.raises(KeyboardInterrupt):
        job.execute(whole[0], tmp_path / "begun", "begun", StopAt(8))
    assert steps(tmp_path / "begun") == [6, 3]
    return tmp_path / "begun"


def steps(folder: Path) -> list[int]:
    return [int(path.stem) for path in RunFolder(folder).checkpoints()]


def same(folder: Path, other: Path) -> None:
    """The commit aside: a test may run in another folder, or while the code is worked on."""
    for mine, theirs in zip(decided(folder), decided(other), strict=True):
        assert {key: (mine[key], theirs[key]) for key in mine if mine[key] != theirs[key] and key != "git_sha"} == {}
    assert parameters(folder) == parameters(other)
    assert (folder / "history.csv").read_bytes() == (other / "history.csv").read_bytes()
