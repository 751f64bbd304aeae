"""Signals end a run after its step, and it goes on from there; broken checkpoints fall back; what cannot change a result."""

import json
import signal
import threading

import pytest
from stopped_runs import Signalled, begun, same, steps, whole  # noqa: F401
from test_resume import QUICK, compose, decided, parameters

import tlmtl
from tlmtl import checkpoint, files, identity, job, results, stopping
from tlmtl.errors import Interrupted, Preempted
from tlmtl.progress import Silent
from tlmtl.results import RunFolder

# ruff: noqa: F811 (fixtures are asked for by their names)


@pytest.mark.parametrize(
    ("number", "at"),
    [(signal.SIGTERM, 1), (signal.SIGUSR1, 4), (signal.SIGUSR2, 12), (signal.SIGHUP, 6), (signal.SIGINT, 5)],
)
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
    spent = checkpoint.load(RunFolder(tmp_path / "run").checkpoints()[0])["state"]["seconds"]
    job.execute(cfg, tmp_path / "run", "run")
    assert f"Going on after step {at} of 12" in (tmp_path / "run/log.txt").read_text()
    same(tmp_path / "run", other)
    (row,) = results.read_rows(tmp_path / "run/results.csv")
    assert float(row["train_seconds"]) >= spent["train"] > 0  # of both attempts together


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
