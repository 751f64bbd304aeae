"""`resume=FOLDER`: whose config it is, which folders can be gone on with, and who may."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TLMTL, refused
from filelock import FileLock
from stopped_runs import begun, same, whole  # noqa: F401
from test_resume import QUICK, StopAt, compose, parameters

import tlmtl
from tlmtl import api, job, resuming
from tlmtl.errors import ConfigError
from tlmtl.progress import Silent
from tlmtl.results import RunFolder

# ruff: noqa: F811 (fixtures are asked for by their names)


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
    """Two commands at once: one goes on; the other is refused, or finds the run finished, and writes nothing."""
    words = [str(TLMTL), "train", f"resume={begun}", "progress=false"]
    both = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=tmp_path) for _ in "ab"]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], errors
    assert any("is in use by another process" in text or "finished" in text for text in errors)
    same(begun, whole[1])


def test_a_lock_is_free_once_its_holder_is_gone(tmp_path):
    (tmp_path / ".lock").write_text("")
    with RunFolder(tmp_path), pytest.raises(ConfigError, match="is in use by another process"), RunFolder(tmp_path):
        pass
    with FileLock(tmp_path / ".lock", timeout=0):
        pass


def test_a_run_that_another_process_ended_meanwhile_is_left_alone(begun, whole):
    cfg, path = resuming.resumed(tlmtl.compose([f"resume={begun}", "progress=false"]))
    job.execute(cfg, path, "run")
    before = (path / "results.csv").read_bytes()
    with pytest.raises(ConfigError, match="has been finished by another process meanwhile"):
        job.execute(cfg, path, "run")
    assert (path / "results.csv").read_bytes() == before
