"""`resume=FOLDER`: whose config it is, which folders can be gone on with, and who may."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from conftest import TLMTL, refused
from filelock import FileLock
from test_resume import QUICK, StopAt, compose, decided, parameters

import tlmtl
from tlmtl import api, checkpoint, files, identity, job, stopping
from tlmtl.errors import ConfigError, Interrupted, Preempted
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


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("at", [1, 4, 12])
def test_a_signal_ends_a_run_after_its_step_and_the_run_goes_on_from_there(number, at, whole, tmp_path):
    cfg, other = whole
    before = [signal.getsignal(one) for one in stopping.SIGNALS]
    again = () if number == signal.SIGINT else (number, number)  # schedulers repeat themselves
    with pytest.raises(Interrupted if number == signal.SIGINT else Preempted) as caught:
        job.execute(cfg, tmp_path / "run", "run", Signalled(at, number, *again, signal.SIGCONT))
    assert f"after step {at} of 12, with a checkpoint in {tmp_path / 'run'}" in str(caught.value)
    assert caught.value.exit_code == (130 if number == signal.SIGINT else 75)
    assert [signal.getsignal(one) for one in stopping.SIGNALS] == before
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "interrupted"
    assert decided(tmp_path / "run")[0]["status"] == "interrupted" and steps(tmp_path / "run")[0] == at
    job.execute(cfg, tmp_path / "run", "run")
    assert f"Going on after step {at} of 12" in (tmp_path / "run/log.txt").read_text()
    same(tmp_path / "run", other)


def test_ctrl_c_twice_stops_at_once(whole, tmp_path):
    with pytest.raises(Interrupted, match=r"^Interrupted\.$"):
        job.execute(whole[0], tmp_path / "run", "run", Signalled(5, signal.SIGINT, signal.SIGINT))
    assert steps(tmp_path / "run") == [3] and decided(tmp_path / "run")[0]["status"] == "interrupted"
    job.execute(whole[0], tmp_path / "run", "run")
    same(tmp_path / "run", whole[1])


@pytest.mark.parametrize("place", ["assemble", "finish", "write_model"])
def test_a_signal_outside_of_training_stops_the_run_there(place, whole, tmp_path, monkeypatch):
    """While data are read, while the test split is evaluated, and while the model's file is written."""
    from tlmtl import artifacts, outcome

    module = {"assemble": job, "finish": outcome, "write_model": artifacts}[place]

    def asked(*arguments, **settings):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(module, place, asked)
    with pytest.raises(Preempted, match="Stopped by SIGTERM"):
        job.execute(whole[0], tmp_path / "run", "run")
    monkeypatch.undo()
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "interrupted"
    assert steps(tmp_path / "run") == ([] if place == "assemble" else [9, 6])
    job.execute(whole[0], tmp_path / "run", "run")
    same(tmp_path / "run", whole[1])


def test_the_source_that_is_being_pre_trained_goes_on_too(tmp_path, monkeypatch):
    from tlmtl import pretrain

    monkeypatch.setenv("TLMTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    words = [*QUICK, "source.train.epochs=30st", "+source.train.checkpoint_every=5st"]
    monkeypatch.setattr(pretrain, "choose", lambda wanted, label: Signalled(12, signal.SIGTERM))
    with pytest.raises(Preempted, match="after step 12 of 30"):
        tlmtl.run(tlmtl.compose(words))
    (source,) = (tmp_path / "cache/sources").glob("*/run.json")
    assert json.loads(source.read_text())["status"] == "interrupted"
    monkeypatch.setattr(pretrain, "choose", lambda wanted, label: Silent())
    assert tlmtl.run(tlmtl.compose(words)).rows["status"].tolist() == ["done"]
    assert "Going on after step 12 of 30" in (source.parent / "log.txt").read_text()


def test_other_threads_and_ignored_signals_are_left_alone():
    found = []

    def look() -> None:
        with stopping.watching() as stop:
            found.append((stop.asked, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(None, signal.SIG_DFL)]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    try:
        with stopping.watching() as stop, stop.patiently():
            signal.raise_signal(signal.SIGHUP)
            assert stop.asked is None
    finally:
        signal.signal(signal.SIGHUP, before)


# Checkpoints


def test_a_checkpoint_is_sealed_and_stays_a_file_of_torch(begun):
    import torch

    path = RunFolder(begun).checkpoints()[0]
    assert torch.load(path, weights_only=True)["state"]["state"]["step"] == 6
    content = path.read_bytes()
    for damage in (content[:-1], content[:5000], content[:-64], b"", content[:9000] + b"!" + content[9001:]):
        path.write_bytes(damage)
        with pytest.raises(checkpoint.BrokenError, match="its checksum is wrong"):
            checkpoint.load(path)
    path.write_bytes(content)
    assert checkpoint.load(path)["state"]["step"] == 6


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_broken_checkpoint_falls_back_to_the_one_before(damage, begun, whole):
    newest = begun / "checkpoint/6.pt"
    content = bytearray(newest.read_bytes())
    if damage == "cut":
        newest.write_bytes(content[:-1000])
    if damage == "changed":
        content[len(content) // 2] ^= 1  # one bit
        newest.write_bytes(content)
    job.execute(whole[0], begun, "begun")
    said = (begun / "log.txt").read_text()
    assert f"The checkpoint {newest} cannot be used" in said and "Going on after step 3 of 12" in said
    same(begun, whole[1])


def test_a_full_disk_keeps_the_checkpoints_there_are(whole, tmp_path, monkeypatch):
    def full(path, fill):
        if path.name == "9.pt":
            raise OSError(28, "No space left on device", str(path))
        write(path, fill)

    write = files.write
    monkeypatch.setattr(files, "write", full)
    with pytest.raises(files.DiskError, match=r"Could not write .*9\.pt: No space left"):
        job.execute(whole[0], tmp_path / "run", "run")
    monkeypatch.undo()
    assert steps(tmp_path / "run") == [6, 3] and decided(tmp_path / "run")[0]["status"] == "failed"
    job.execute(whole[0], tmp_path / "run", "run")
    assert "Going on after step 6 of 12" in (tmp_path / "run/log.txt").read_text()
    same(tmp_path / "run", whole[1])


def test_a_run_whose_loss_became_infinite_starts_anew(tmp_path):
    cfg = compose("strategy=finetune_all", "optimizer=sgd", "optimizer.lr=1e12", "train.checkpoint_every=1st")
    for _ in range(2):
        with pytest.raises(tlmtl.errors.TrainingError):
            job.execute(cfg, tmp_path / "run", "run")
        assert steps(tmp_path / "run") == []
    assert "Going on" not in (tmp_path / "run/log.txt").read_text()


def test_how_often_checkpoints_are_written_changes_nothing(whole, tmp_path):
    cfg = compose(
        "strategy=finetune_all", "seed=3", "train.ema=0.9", "dataset.augment=digits", "train.checkpoint_every=1st"
    )
    assert identity.config_hash(cfg) == identity.config_hash(whole[0])
    job.execute(cfg, tmp_path / "often", "often")
    same(tmp_path / "often", whole[1])


def test_settings_of_tasks_that_are_not_chosen_change_nothing(tmp_path):
    words = ["dataset=two_digits", "source=none", "strategy=from_scratch", "tasks=[left]", "train.epochs=1"]
    more = ["dataset.tasks.right.weight=3", "dataset.tasks.sum.loss=huber"]
    plain, other = (tlmtl.compose([*QUICK, *words, *each]) for each in ([], more))
    assert identity.config_hash(plain) == identity.config_hash(other)
    assert identity.group_id(plain) == identity.group_id(other)
    for name, cfg in (("plain", plain), ("other", other)):
        job.execute(cfg, tmp_path / name, name)
    left = [[{**row, "baseline_id": ""} for row in decided(tmp_path / name)] for name in ("plain", "other")]
    assert left[0] == left[1] and parameters(tmp_path / "plain") == parameters(tmp_path / "other")
    both = tlmtl.compose([*QUICK, *words, *more, "tasks=[left,right]"])
    assert identity.config_hash(both) != identity.config_hash(tlmtl.compose([*QUICK, *words, "tasks=[left,right]"]))


# resume=FOLDER


def test_overrides_that_agree_with_the_folder_are_taken(begun, whole, monkeypatch, main):
    said = main(
        "train", f"resume={begun}", *QUICK, "strategy=finetune_all", "seed=3", "optimizer.lr=1e-3", "term=[none]"
    )
    assert said.code == 0, said.all
    same(begun, whole[1])
    assert not Path("outputs/runs/latest").exists()  # the run is not one of this folder's


def test_overrides_that_do_not_are_shown_with_both_values(begun, main):
    said = main(
        "train", f"resume={begun}", "strategy=linear_probe", "seed=4", "train.clip=1", "train.epochs=4", "train.clop=1",
        "head.dropout=0", "+term.l2_sp.alpha=1", "strategy.rules=[]", "dataset.tasks.digit.weight=2", "term=[l2_sp]",
    )  # fmt: skip
    refused(
        said,
        "strategy: the folder has finetune_all, the command says linear_probe",
        "seed: the folder has 3, the command says 4",
        "train.clip: the folder has null, the command says 1",
        "train.clop: the folder has no such key. Did you mean 'train.clip'? The command says 1",
        "term: the folder has [], the command says ['l2_sp']",
        "dataset.tasks.digit.weight: the folder has 1.0, the command says 2",
        "Leave these out to go on with the run, or leave out resume= to start another one.",
    )
    assert "train.epochs" not in said.err and "head.dropout" not in said.err
    with pytest.raises(ConfigError, match="seed: the folder has 3, the command says 4"):
        tlmtl.compose([f"resume={begun}", "seed=4"])


def test_an_experiment_is_compared_by_what_it_sets(tmp_path, main):
    words = ["+experiment=two_digits", "model.width=8", "train.epochs=4st", "source.train.epochs=1st", "progress=false"]
    cfg = compose(*words)
    with pytest.raises(KeyboardInterrupt):
        job.execute(cfg, tmp_path / "run", "run", StopAt(2))
    other = main("train", f"resume={tmp_path / 'run'}", *words, "strategy=separate")
    refused(other, "strategy: the folder has linear_probe, the command says separate")
    said = main("train", f"resume={tmp_path / 'run'}", *words)
    assert said.code == 0, said.all


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing", "Found no run in"),
        ("sweep", "It holds runs: name one of them"),
        ("broken", "should hold the run's config. It cannot be read"),
        ("foreign", "is no config of this version of tlmtl: Unknown key 'epoch'"),
        ("many", "goes on with one run. Found a sweep: seed=1,2"),
        ("typed", "Wrong value at 'seed'"),
    ],
)
def test_folders_and_words_that_cannot_be_resumed(what, message, begun, main):
    more = {"many": ["seed=1,2"], "typed": ["seed=x"]}.get(what, [])
    if what == "nothing":
        shutil.rmtree(begun)
    if what == "broken":
        (begun / "config.yaml").write_text("a: [")
    if what == "foreign":
        (begun / "config.yaml").write_text("epoch: 4\n")
    refused(main("train", f"resume={begun.parent if what == 'sweep' else begun}", *more), message)


def test_a_folder_that_was_moved_is_gone_on_with(begun, whole, tmp_path, main):
    shutil.move(begun, tmp_path / "elsewhere")
    assert main("train", f"resume={tmp_path / 'elsewhere'}", "progress=false").code == 0
    same(tmp_path / "elsewhere", whole[1])


def test_a_run_that_failed_or_was_pruned_says_so_and_is_tried_again(begun, whole, main):
    RunFolder(begun).update(status="failed", error="the process ended by SIGKILL")
    said = main("train", f"resume={begun}")
    assert "This run failed (the process ended by SIGKILL). It goes on from its last checkpoint." in said.err
    same(begun, whole[1])
    refused(main("train", f"resume={begun}"), "is finished: there is nothing to resume. Its rows are in")
    RunFolder(begun).update(status="pruned", error="Pruned at step 3 of 12")
    assert "It starts from the beginning." in main("train", f"resume={begun}").err
    same(begun, whole[1])


def test_a_run_that_failed_with_a_checkpoint_is_gone_on_with_by_the_same_command(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    cfg = compose("strategy=linear_probe")
    monkeypatch.setattr(api, "choose", lambda wanted, label: StopAt(8))
    with pytest.raises(KeyboardInterrupt):
        api.run(cfg)
    (folder,) = Path("outputs/runs").glob("2*")
    RunFolder(folder).update(status="failed", error="Could not write 9.pt: No space left on device.")
    monkeypatch.setattr(api, "choose", lambda wanted, label: Silent())
    with caplog.at_level("INFO", "tlmtl"):
        assert api.run(cfg).folder == folder
    assert "which failed: Could not write 9.pt" in caplog.text and "Going on after step 6 of 12" in caplog.text


def test_another_version_starts_from_the_beginning_and_says_so(begun, whole, monkeypatch):
    monkeypatch.setattr(tlmtl, "__version__", "0.0.9")
    job.execute(whole[0], begun, "begun")
    assert "made with another tlmtl: starting from the beginning" in (begun / "log.txt").read_text()
    assert parameters(begun) == parameters(whole[1])


# Locks


def test_a_folder_in_use_is_refused_at_once_and_a_lock_of_the_dead_is_not(begun, whole, main):
    hold = (
        "import sys, time; from pathlib import Path; from tlmtl.results import RunFolder\n"
        "with RunFolder(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", hold, str(begun)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        said = main("train", f"resume={begun}")
        refused(said, "is in use by another process", f"process {os.getpid()} on {os.uname().nodename}")
    finally:
        other.kill()
        other.wait()
    assert (begun / ".lock").exists()  # left by the one that was killed
    assert main("train", f"resume={begun}").code == 0
    same(begun, whole[1])


def test_two_that_resume_one_folder(begun, whole, tmp_path):
    """Two commands at once: one goes on, the other is refused or comes too late."""
    words = [str(TLMTL), "train", f"resume={begun}", "progress=false"]
    both = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=tmp_path) for _ in "ab"]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], errors
    assert any("is in use by another process" in text or "is finished" in text for text in errors)
    same(begun, whole[1])


def test_a_lock_is_free_once_its_holder_is_gone(tmp_path):
    (tmp_path / ".lock").write_text("")
    with RunFolder(tmp_path), pytest.raises(ConfigError, match="is in use by another process"), RunFolder(tmp_path):
        pass
    with FileLock(tmp_path / ".lock", timeout=0):
        pass
